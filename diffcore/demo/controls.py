"""What a visitor can choose of the conditions of a run, as records that become JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from diffcore.denoising.conditions import ClassCondition, Condition, ScalarCondition
from diffcore.denoising.conditions.coarse_condition import CoarseCondition
from diffcore.denoising.text import TextCondition

MOST_EXAMPLES = 8
"""A control shows at most so many example texts."""


@dataclass(frozen=True)
class Control:
    """One control of the page.

    * `kind`: `"menu"`, `"slider"`, `"text"`, which `Condition.parse` reads, or `"file"`.
    * `choices`: the names of a menu, or example texts.
    * `quantiles`: for a slider, those of the data, from the smallest value to the largest, in `unit`.
    """

    name: str
    kind: Literal["menu", "slider", "text", "file"]
    choices: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    unit: str = ""


def controls_of(conditions: Sequence[Condition]) -> tuple[Control, ...]:
    """A control for each condition, in order; a text for kinds of conditions that are not known here."""
    return tuple(_control(condition) for condition in conditions)


def _control(condition: Condition) -> Control:
    if isinstance(condition, ClassCondition):
        return Control(condition.name, "menu", condition.classes)
    if isinstance(condition, ScalarCondition):
        return Control(condition.name, "slider", (), condition.quantiles, condition.unit)
    if isinstance(condition, CoarseCondition):
        return Control(condition.name, "file")
    examples = condition.samples[:MOST_EXAMPLES] if isinstance(condition, TextCondition) else ()
    return Control(condition.name, "text", tuple(examples))
