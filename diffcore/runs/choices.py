"""Parts that a caller chooses by name, by name and options, or brings along."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins.building import build, require_part
from diffcore.plugins.guidance import words_of
from diffcore.plugins.records import Component, Modality, NoOptions, Settings
from diffcore.plugins.registry import choose
from diffcore.runs.settings import validate

Choice = str | Mapping[str, Any]
"""A part by its name, or by its name and options: `"ddim"`, `{"name": "ddim", "eta": 0.5}`."""


def build_choice(choice: Any, offered: Sequence[Component], kind: str, *context: Any) -> Any:
    """The part that is chosen among `offered` by name, or by name and options.

    Anything else is taken to be the part itself, and returned unchanged. Raises `UserError` if it cannot be one.
    """
    if not isinstance(choice, str | Mapping):
        require_part(kind, choice, f"`{kind}`")
        return choice
    return build(kind, *chosen(choice, offered, kind), *context)


def chosen(choice: Choice, offered: Sequence[Component], kind: str) -> tuple[Component, Settings]:
    """The record of the part that is chosen among `offered`, and its options. Raises `UserError` for unknown ones."""
    name, values = name_and_options(choice, kind)
    component = choose(offered, name, kind)
    return component, validate(component.options, values, f"the {kind} {name}")


def writing_of(modality: Modality, values: Mapping[str, Any] | None) -> Settings | None:
    """The options with which files are written; None for the defaults. Raises `UserError` for unknown ones."""
    if not values:
        return None
    if modality.writing is NoOptions:
        raise UserError(f"`write.{min(values)}`: the files of {modality.name} can be written in one way only")
    return validate(modality.writing, dict(values), "`write`")  # type: ignore[no-any-return]


def name_and_options(choice: Choice, kind: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of a choice. Raises `UserError` if there is no name."""
    values = {"name": choice} if isinstance(choice, str) else dict(choice)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"`{kind}` has options but no name: write {{'name': NAME, ...}}")
    return name, values


def name_of(choice: Any) -> str:
    """The choice in words: a name with its options in brackets, or the name of the function."""
    return words_of(*name_and_options(choice, "part")) if isinstance(choice, str | Mapping) else function_name(choice)


def function_name(part: Any) -> str:
    """The function that made a solver or a guide: `ddim` for the inner function of `ddim(...)`."""
    return getattr(part, "__qualname__", "a function of the caller").split(".")[0]
