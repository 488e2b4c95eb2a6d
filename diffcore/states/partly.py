"""Spaces of states of which some entries are known: only the others have noise."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffcore.states.spaces import Mask, Product, Space, space_of
from diffcore.states.state import State, fields, from_fields, map_fields, named


@dataclass(frozen=True, eq=False)
class Partly:
    """The states of one field of which the entries `known` are known. Noise, and what is projected, is zero there.

    Where the entries of `space` depend on each other, as in a zero-centred one, a sample of which an element is known
    is described relative to its known elements: the others then depend on nothing (`ZeroCentred.anchored`). A sample of
    which no element is known is one of `space`.

    * `space`: the space of the field.
    * `known`: bool `[B, ...]`, or `[1, ...]` for all samples alike.
    """

    space: Any
    known: Tensor

    def empty(self, batch: int) -> Tensor:
        return self.space.empty(batch)  # type: ignore[no-any-return]

    def noise(self, normal: Tensor, mask: Mask = None) -> Tensor:
        return self._either("noise", normal, mask) * self._unknown(normal)

    def project(self, state: Tensor, mask: Mask = None) -> Tensor:
        return self._either("project", state, mask) * self._unknown(state)

    def degrees_of_freedom(self, state: Tensor, mask: Mask = None) -> Tensor:
        unknown = self._unknown(state).expand_as(state)
        some = self._anchored(state)
        return torch.where(some, self._free.total(unknown, mask), self.space.degrees_of_freedom(state, mask))

    def squared_norm(self, state: Tensor, mask: Mask = None) -> Tensor:
        return self._free.squared_norm(self.project(state, mask), mask)  # type: ignore[no-any-return]

    def gradient(self, derivative: Tensor, mask: Mask = None) -> Tensor:
        return self._either("gradient", derivative, mask) * self._unknown(derivative)

    def factors(self, values: Tensor, mask: Mask = None) -> Tensor:
        return self._either("factors", values, mask)

    def total(self, factors: Tensor, mask: Mask = None) -> Tensor:
        of_unknown = self._free.total(factors * self._unknown(factors), mask)
        return torch.where(self._anchored(factors), of_unknown, self.space.total(factors, mask))

    def placed(self, state: Tensor, mask: Mask = None) -> Tensor:
        """The same states, described relative to their known elements where some are known."""
        if not hasattr(self.space, "anchored"):
            return state
        known = self.known.to(state.device).flatten(2).any(2).expand(state.shape[:2])
        return self.space.relative_to(state, known, mask)  # type: ignore[no-any-return]

    @property
    def _free(self) -> Any:
        """The space without dependences between entries."""
        return getattr(self.space, "anchored", self.space)

    def _unknown(self, like: Tensor) -> Tensor:
        return (~self.known).to(like)

    def _anchored(self, like: Tensor) -> Tensor:
        """The samples of which something is known, bool `[B]`."""
        return self.known.to(like.device).flatten(1).any(1).expand(len(like))

    def _either(self, operation: str, state: Tensor, mask: Mask) -> Tensor:
        """The `operation` of the free space where something is known, and of the space itself elsewhere."""
        own: Tensor = getattr(self.space, operation)(state, mask)
        if self._free is self.space:
            return own
        some = self._anchored(state).reshape(-1, *[1] * (state.ndim - 1))
        return torch.where(some, getattr(self._free, operation)(state, mask), own)


def partly(space: Space, known: State) -> Space:
    """The space of states of `space` of which the entries `known`, a state of booleans, are known."""
    if isinstance(space, Product):
        return Product({name: Partly(space.parts[name], flag) for name, flag in fields(known).items()})
    return Partly(space, fields(known)[""])


def placed(state: State, space: Space, mask: Mask = None) -> State:
    """The states, of a space that `partly` returns, described relative to their known elements."""
    return from_fields(
        {name: space_of(space, name).placed(value, mask) for name, value in fields(state).items()}  # type: ignore[attr-defined]
    )


def inserted(x: State, values: State, known: State) -> State:
    """`x` with the `values` where `known` is True; all are `[B, ...]`, or `[1, ...]` for all samples alike."""
    return (
        map_fields(torch.where, known, values, x)
        if isinstance(x, Tensor)
        else named(
            {name: torch.where(fields(known)[name], fields(values)[name], value) for name, value in fields(x).items()}
        )
    )
