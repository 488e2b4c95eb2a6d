"""Parameters of generated shapes to sentences, such as "a tall round stool with three thin legs".

Low, tall, thin and thick are relative to the kind, and thin and thick also to the number of legs: the lower third is
low, and the upper third is tall. Of the third in the middle, nothing is said.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Generator, Tensor

from diffcore.plugins.wordings import UNSAID, one_of, said, with_article
from diffcore.states.noise import generator_for
from diffcore_pointcloud.data.shapes import surface

WORDINGS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "kind": {
        "aeroplane": ("aeroplane", "plane"),
        "chair": ("chair",),
        "lamp": ("lamp",),
        "solid": ("solid", "body"),
        "stool": ("stool",),
        "table": ("table",),
    },
    "height": {"low": ("low", "short"), "tall": ("tall", "high")},
    "top": {"rectangular": ("rectangular", "angular"), "round": ("round", "circular")},
    "legs": {"one": ("one", "a single"), "three": ("three",), "four": ("four",)},
    "thickness": {"thin": ("thin", "slender"), "thick": ("thick", "stout")},
    "arms": {"none": ("armless", "no arms"), "some": ("arms", "armrests")},
}
"""What is said of a shape, and how."""

LEGS = (1, 3, 4)
"""The numbers of legs that are said. Of the two panels of a trestle nothing is said."""

LEFT_OUT = 0.15
"""How often an attribute is not said, so that sentences also say little."""

_OPENINGS = ("", "", "", "there is", "a model of")
_REFERENCES = 1000
"""The number of shapes of a kind that decide what is low and what is thin."""


def values_of(kind: str, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values of shapes of a kind, by attribute of `WORDINGS`, from their `Surface.parameters`."""
    shapes = len(parameters["height"])
    values = {name: torch.full((shapes,), UNSAID) for name in WORDINGS}
    values["kind"] += 1 + [*WORDINGS["kind"]].index(kind)
    if "legs" in parameters:
        values["height"] = _third(parameters["height"], limits(kind, "height"))
        for number, legs in enumerate(LEGS):
            rows = parameters["legs"] == legs
            values["legs"][rows] = number
            if rows.any():
                values["thickness"][rows] = _third(parameters["thickness"][rows], limits(kind, "thickness", legs))
    for name, parameter in (("top", "round"), ("arms", "arms")):
        if parameter in parameters:
            values[name] = parameters[parameter].long()
    return values


def _third(values: Tensor, limits: Tensor) -> Tensor:
    """0 below the lower of three limits, 1 above the upper one, and `UNSAID` between them."""
    return torch.where(values < limits[0], 0, torch.where(values > limits[2], 1, UNSAID))


@cache
def limits(kind: str, parameter: str, legs: int | None = None) -> Tensor:
    """The lower third, the half and the upper third of a parameter of a kind, with so many legs, `[3]`.

    They are nan if the kind never has so many legs.
    """
    parameters = reference(kind)
    values = parameters[parameter]
    if legs is not None:
        values = values[parameters["legs"] == legs]
    return values.quantile(torch.tensor([1 / 3, 1 / 2, 2 / 3])) if len(values) else torch.full((3,), torch.nan)


@cache
def reference(kind: str) -> Mapping[str, Tensor]:
    """The parameters of some shapes of a kind, always the same ones."""
    return surface(kind, _REFERENCES, generator_for("described", kind)).parameters


def write(values: Mapping[str, Tensor], generator: Generator, complete: bool = False) -> list[str]:
    """A sentence for each shape, with the wording drawn at random.

    With `complete`, every sentence says all that there is to say.
    """
    kinds = said({"kind": values["kind"]}, WORDINGS, generator)
    others = {name: value for name, value in values.items() if name != "kind"}
    rows = said(others, WORDINGS, generator, 0.0 if complete else LEFT_OUT)
    drawn = torch.rand(len(rows), 3, generator=generator).tolist()
    return [_sentence({**kind, **row}, *u) for kind, row, u in zip(kinds, rows, drawn, strict=True)]


def _sentence(words: Mapping[str, str], opening: float, joint: float, order: float) -> str:
    """One sentence of the wordings of attributes; its choices take the three numbers in [0, 1)."""
    arms = words.get("arms", "")
    before = [words[name] for name in ("height", "top") if name in words] + ["armless"] * (arms == "armless")
    parts = [_legs(words)] * bool({"legs", "thickness"} & words.keys()) + [arms] * (arms not in ("", "armless"))
    if order < 0.5:
        parts.reverse()
    behind = f" {one_of(('with', 'that has'), joint)} {' and '.join(parts)}" if parts else ""
    return f"{one_of(_OPENINGS, opening)} {with_article(' '.join([*before, words['kind']]))}{behind}".strip()


def _legs(words: Mapping[str, str]) -> str:
    """Such as "three thin legs", "a single leg" or "thick legs"."""
    number = words.get("legs")
    noun = "leg" if number in WORDINGS["legs"]["one"] else "legs"
    return " ".join([*filter(None, (number, words.get("thickness"))), noun])
