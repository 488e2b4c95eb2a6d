"""What a condition is: its values, and how a network receives them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffcore.denoising.heads import Head
from diffcore.denoising.inputs import NO_INPUTS, Inputs
from diffcore.errors import UserError

Conditions = dict[str, Tensor]
"""The values of a batch, `[B, ...]` by the name of the condition."""


class Condition(ABC):
    """A kind of condition: its values, and how a network receives them. Plugins may write their own.

    The values of a batch are a tensor `[B, ...]`, such as class indices `[B]`, the words of texts `[B, L]` or pictures
    `[B, C, H, W]`. Subclasses are frozen dataclasses: two models have the same condition if they compare equal. A
    subclass has to define `name`, `null`, `given` and `embedding`; and `parse`, if values can be written as text.
    """

    name: str
    """The name of the condition."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one value: `()` for numbers and classes."""
        return tuple(self.null(1).shape[1:])

    @property
    def inputs(self) -> Inputs:
        """What `embedding` yields besides a vector. Networks with such inputs take it, others are refused."""
        return NO_INPUTS

    @property
    def head(self) -> Head | None:
        """What the outputs of a noisy classifier mean; None if a classifier cannot predict this condition."""
        return None

    @abstractmethod
    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """Null values, `[batch, ...]`: "not given"."""

    @abstractmethod
    def given(self, value: Tensor) -> Tensor:
        """Which values are not null, bool `[B]`."""

    @abstractmethod
    def embedding(self, width: int) -> nn.Module:
        """A new module that embeds values `[B, ...]`, including null values.

        It returns a vector `[B, width]`, which is added to the conditioning vector of a network, or an `Embedded` with
        tokens or channels, as `inputs` announces.
        """

    def expected(self, value: Tensor) -> Tensor | None:
        """What values `[B, ...]` alone say about the state x0: an estimate of the form of the state, 0 for null values.

        The denoiser then predicts the difference of x0 from it. None if there is no estimate.
        """
        return None

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """The values `[B, ...]` that a user asks for, for the samples `indices` of `seed`.

        Raises `UserError` if `text` is not a valid value, or if values cannot be written as text.
        """
        raise UserError(f"values of the condition {self.name!r} cannot be written as text: give a tensor in Python")

    def require(self, value: Tensor) -> None:
        """Raise `UserError` if one of the values `[B, ...]` does not exist, or if they have the wrong type.

        Their shape is checked elsewhere.
        """
        if (value.is_floating_point() and not self.null(1).is_floating_point()) or value.dtype.is_complex:
            raise UserError(f"the condition {self.name!r} has numbers of the type {value.dtype}; give whole numbers")

    def in_part(self, text: str) -> str | None:
        """A warning if only a part of `text`, which is a valid value, is used; None if all of it is."""
        return None

    def warning(self, value: Tensor) -> str | None:
        """A warning about requested values that samples may not reach, or None."""
        return None

    def examples(self, batch: int) -> Tensor:
        """Typical values for pictures of samples, `[batch, ...]`; null values where there are none."""
        return self.null(batch)

    def caption(self, value: Tensor) -> str:
        """One value, of the shape `[...]`, as text; it is not called for null values."""
        return "given"
