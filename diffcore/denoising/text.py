"""Text as a condition: a sentence becomes numbers, and an encoder makes tokens of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions import Condition
from diffcore.denoising.inputs import Inputs
from diffcore.errors import UserError


class TextEncoder(ABC):
    """What turns a text into numbers, and numbers into tokens. Subclasses are frozen dataclasses.

    A text is a row of at most `length` whole numbers, its ids, filled up with 0; 0 alone is the empty text. Two models
    have the same encoder if they compare equal.
    """

    length: int
    """The largest number of ids of a text."""
    channels: int
    """The number of channels of the tokens."""

    @property
    @abstractmethod
    def largest(self) -> int:
        """The largest id that a text may have."""

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """The ids of a text, from 1 on, however many there are.

        Raises `UserError` for what the encoder does not know.
        """

    def known_ids(self, text: str) -> list[int]:
        """The ids of a text without what the encoder does not know."""
        return self.ids(text)

    @abstractmethod
    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, for names of files and for reports; ids of 0 are ignored."""

    @abstractmethod
    def embedding(self, width: int) -> nn.Module:
        """A new module from ids `[B, L]`, where L is at most `length`, to an `Embedded`.

        It has tokens `[B, L', channels]`, and may have a vector `[B, width]`. If it has a method `keep_texts(ids)`,
        this is called before training with the ids `[..., L]` of all texts of the training examples: what is not
        trained can then be computed once for each of them. Weights that are not trained need not be in its state dict,
        if `digest` covers them.
        """

    @property
    @abstractmethod
    def digest(self) -> str:
        """A SHA-256 of everything that decides what ids mean: the vocabulary, and weights that are not trained."""

    @property
    @abstractmethod
    def learned(self) -> Mapping[str, Any]:
        """What the builder of this encoder needs besides its options to make it again, as values of JSON."""


@dataclass(frozen=True)
class TextCondition(Condition):
    """A text, int64 ids `[B, L]` filled up with 0; the null value is the empty text, 0 everywhere.

    * `name`: the name of the condition.
    * `encoder`: what the ids mean, and how a network receives them: as tokens for cross-attention.
    * `samples`: texts of the training examples, for pictures of samples. Conditions are compared without them.
    """

    name: str
    encoder: TextEncoder
    samples: tuple[str, ...] = field(default=(), compare=False)

    @property
    def inputs(self) -> Inputs:
        return Inputs(tokens=self.encoder.channels)

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return torch.zeros(batch, self.encoder.length, dtype=torch.int64, device=device)

    def given(self, value: Tensor) -> Tensor:
        return (value > 0).any(1)

    def embedding(self, width: int) -> nn.Module:
        return self.encoder.embedding(width)

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """One text for all samples. A text that is too long is cut; `in_part` says how much of it is used.

        Raises `UserError` if the text has no words, or words that the encoder does not know.
        """
        ids = self._ids(text)
        if not ids:
            raise UserError(
                f"the {self.name} {shown(text)} has no words: write what the samples should be, or leave it out"
            )
        return padded([ids], self.encoder.length).expand(len(indices), -1)

    def _ids(self, text: str) -> list[int]:
        try:
            return self.encoder.ids(text)
        except UserError as error:
            raise UserError(f"the {self.name} {shown(text)}: {error}") from None

    def in_part(self, text: str) -> str | None:
        ids, most = self._ids(text), self.encoder.length
        if len(ids) <= most:
            return None
        return (
            f"the {self.name} {shown(text)} is too long: its first {most:,} of {len(ids):,} parts are used, which are "
            f"{shown(self.encoder.text(ids[:most]), 60)}"
        )

    def require(self, value: Tensor) -> None:
        super().require(value)
        outside = value[(value < 0) | (value > self.encoder.largest)]
        if len(outside):
            raise UserError(
                f"the condition {self.name!r} has the id {int(outside[0])}; its texts have ids from 1 to "
                f"{self.encoder.largest:,}, and 0 after them: are they those of another model?"
            )
        if bool(((value[:, :-1] == 0) & (value[:, 1:] > 0)).any()):
            raise UserError(f"the condition {self.name!r} has an id after a 0, which ends a text")

    def examples(self, batch: int) -> Tensor:
        """The texts `samples`, one after another; null values if there are none."""
        if not self.samples:
            return self.null(batch)
        rows = padded([self.encoder.known_ids(text) for text in self.samples], self.encoder.length)
        return rows[torch.arange(batch) % len(rows)]

    def caption(self, value: Tensor) -> str:
        return self.encoder.text(value.tolist())


def padded(rows: Sequence[Sequence[int]], length: int, empty: int = 0) -> Tensor:
    """Numbers as int64 `[n, length]`, cut after `length` of them or filled up with `empty`."""
    found = torch.full((len(rows), length), empty, dtype=torch.int64)
    for number, ids in enumerate(rows):
        kept = ids[:length]
        found[number, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
    return found


def can_be_read(ids: Tensor) -> bool:
    """Whether a network may look at the ids to compute less.

    On other devices than the CPU it would have to wait for them, and an exported program does the same for all texts.
    """
    return ids.device.type == "cpu" and not torch.compiler.is_exporting()


def cut_to_longest(ids: Tensor) -> Tensor:
    """Ids `[B, L]` without the columns that no text needs, where they can be read; at least one column."""
    if not can_be_read(ids):
        return ids
    return ids[:, : max(1, int((ids > 0).sum(1).max()) if len(ids) else 1)]


def shown(text: str, most: int = 40) -> str:
    """A text in quotation marks for a message, at most `most` characters of it."""
    return repr(text if len(text) <= most else f"{text[: most - 1]}…")
