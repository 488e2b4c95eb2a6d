"""The condition that is one of several classes."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions.condition import Condition
from diffcore.denoising.heads import ClassHead
from diffcore.errors import UserError, did_you_mean
from diffcore.names import names_in


@dataclass(frozen=True)
class ClassCondition(Condition):
    """One of K classes, int64 `[B]`; the null value is K.

    * `name`: the name of the condition.
    * `classes`: the names of the K classes.

    The embedding is a table of vectors of unit variance, with one for the null value. The outputs of a noisy classifier
    are K logits.
    """

    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", names_in(self.classes))

    @property
    def head(self) -> ClassHead:
        return ClassHead(len(self.classes))

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return torch.full((batch,), len(self.classes), dtype=torch.int64, device=device)

    def given(self, value: Tensor) -> Tensor:
        return value < len(self.classes)

    def embedding(self, width: int) -> nn.Module:
        return nn.Embedding(len(self.classes) + 1, width)

    def require(self, value: Tensor) -> None:
        super().require(value)
        count = len(self.classes)
        outside = value[(value < 0) | (value > count)]
        if len(outside):
            raise UserError(
                f"the condition {self.name!r} has the value {int(outside[0])}; its classes are 0 to {count - 1}, and "
                f"{count} means that none is given"
            )

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """One class for all samples, by its name, `3`, or by its index from 0, `#3`.

        A number without `#` is a name and never an index, because classes may be called 1, 2, 3. Letters with accents
        may be written in both ways that Unicode has.
        """
        found = _found(text, self.classes)
        if found is None:
            shown = ", ".join(self.classes[:20]) + (", …" if len(self.classes) > 20 else "")
            hint = did_you_mean(text, self.classes)
            count = len(self.classes)
            raise UserError(
                f"unknown {self.name} {text!r}{hint}; this model knows: {shown}; by index, #0 to #{count - 1}"
            )
        return torch.full((len(indices),), found)

    def examples(self, batch: int) -> Tensor:
        """The classes, one after another."""
        return torch.arange(batch) % len(self.classes)

    def caption(self, value: Tensor) -> str:
        return self.classes[int(value)] if int(value) < len(self.classes) else "any"


def _found(text: str, classes: Sequence[str]) -> int | None:
    """The index of the class with this name, or with the index after `#`; None if there is no such class."""
    if text in classes:
        return classes.index(text)
    composed = unicodedata.normalize("NFC", text)
    if composed in (names := [unicodedata.normalize("NFC", name) for name in classes]):
        return names.index(composed)
    number = text.removeprefix("#")
    if number != text and number.isdecimal() and len(number) < 10 and int(number) < len(classes):
        return int(number)
    return None
