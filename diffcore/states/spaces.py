"""Spaces: the linear spaces to which states belong, and standard Gaussian noise in them.

A space makes its noise from independent standard normal numbers, projects onto itself and counts its degrees of
freedom. Noise has unit variance in each direction of the space. `mask` `[B, N]` is True where an element exists; None
means that all exist.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from diffcore.states.state import State, fields, named

if TYPE_CHECKING:
    from tensordict import TensorDict

Mask = Tensor | None
"""Which elements exist, bool `[B, N]`; None if all do."""


class Space(Protocol):
    """A linear space of states, with an inner product.

    Every method takes and returns batches `[B, ...]`.
    """

    def empty(self, batch: int) -> State:
        """A batch of zeros `[batch, ...]`."""

    def noise(self, normal: State, mask: Mask = None) -> State:
        """Standard Gaussian noise of the space, a linear function of standard normal numbers of the same shape."""

    def project(self, state: State, mask: Mask = None) -> State:
        """The nearest point of the space: the orthogonal projection."""

    def degrees_of_freedom(self, state: State, mask: Mask = None) -> Tensor:
        """The dimension of the space for each sample, which depends on the mask, `[B]` float."""

    def squared_norm(self, state: State, mask: Mask = None) -> Tensor:
        """|x|^2 of the projection of each sample, `[B]`; for noise, chi-squared with these degrees of freedom."""

    def gradient(self, derivative: State, mask: Mask = None) -> State:
        """The gradient of a function in the space, from its derivative with respect to each entry of the tensor.

        It is the g in the space with `<g, d> = sum(derivative * d)` for every direction d of the space, where `<d, d>`
        is `squared_norm(d)`. A score is such a gradient.
        """

    def factors(self, values: State, mask: Mask = None) -> State:
        """The factors nearest to `values` that noise can be multiplied by, entry by entry, and stay in the space.

        Where the entries of a space depend on each other, as in a zero-centred one, each sample has a single factor.
        """

    def total(self, factors: State, mask: Mask = None) -> Tensor:
        """The sum of such factors over the degrees of freedom of each sample, `[B]`."""


def _elements(mask: Tensor, like: Tensor) -> Tensor:
    """`mask` `[B, N]` with trailing axes, in the type of `like` `[B, N, ...]`."""
    return mask.reshape(*mask.shape, *[1] * (like.ndim - 2)).to(like.dtype)


def _by(shape: tuple[int, ...]) -> str:
    """The shape of a space, as messages show it."""
    return " x ".join(map(str, shape))


def _square(state: Tensor) -> Tensor:
    """The sum of squares of each sample, `[B]`."""
    return state.square().flatten(1).sum(1)


@dataclass(frozen=True)
class Euclidean:
    """All tensors of `shape`; with a mask, those whose elements along the first axis are zero where absent.

    * `shape`: the shape of a sample, without the batch axis.
    """

    shape: tuple[int, ...]

    def __str__(self) -> str:
        return _by(self.shape)

    def empty(self, batch: int) -> Tensor:
        return torch.zeros(batch, *self.shape)

    def noise(self, normal: Tensor, mask: Mask = None) -> Tensor:
        return self.project(normal, mask)

    def project(self, state: Tensor, mask: Mask = None) -> Tensor:
        return state if mask is None else state * _elements(mask, state)

    def degrees_of_freedom(self, state: Tensor, mask: Mask = None) -> Tensor:
        if mask is None:
            return state.new_full((len(state),), float(state[0].numel()))
        return mask.sum(1).to(state.dtype) * state[0, 0].numel()

    def squared_norm(self, state: Tensor, mask: Mask = None) -> Tensor:
        return _square(self.project(state, mask))

    def gradient(self, derivative: Tensor, mask: Mask = None) -> Tensor:
        return self.project(derivative, mask)

    def factors(self, values: Tensor, mask: Mask = None) -> Tensor:
        return values

    def total(self, factors: Tensor, mask: Mask = None) -> Tensor:
        return self.project(factors, mask).flatten(1).sum(1)


@dataclass(frozen=True)
class ZeroCentred:
    """Sets of N vectors of length d whose mean is zero: positions up to translation.

    The orthogonal projection of standard noise is standard noise of the subspace, with (N - 1) d degrees of freedom
    (Hoogeboom et al. 2022, EDM for molecules, section 3).

    * `shape`: (N, d).
    """

    shape: tuple[int, int]

    def __str__(self) -> str:
        return _by(self.shape)

    def empty(self, batch: int) -> Tensor:
        return torch.zeros(batch, *self.shape)

    def noise(self, normal: Tensor, mask: Mask = None) -> Tensor:
        return self.project(normal, mask)

    def project(self, state: Tensor, mask: Mask = None) -> Tensor:
        if mask is None:
            return state - state.mean(1, keepdim=True)
        present = _elements(mask, state)
        state = state * present
        return state - present * (state.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1))

    def degrees_of_freedom(self, state: Tensor, mask: Mask = None) -> Tensor:
        if mask is None:
            return state.new_full((len(state),), float((state.shape[1] - 1) * state.shape[2]))
        return (mask.sum(1).to(state.dtype) - 1).clamp(min=0) * state.shape[2]

    def squared_norm(self, state: Tensor, mask: Mask = None) -> Tensor:
        return _square(self.project(state, mask))

    def gradient(self, derivative: Tensor, mask: Mask = None) -> Tensor:
        return self.project(derivative, mask)

    def factors(self, values: Tensor, mask: Mask = None) -> Tensor:
        if mask is None:
            mean = values.flatten(1).mean(1)
        else:
            mean = (values.flatten(2).mean(2) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return mean[:, None, None].expand_as(values)

    def total(self, factors: Tensor, mask: Mask = None) -> Tensor:
        return self.degrees_of_freedom(factors, mask) * factors[:, 0, 0]

    @property
    def anchored(self) -> Euclidean:
        """The space of the same sets described relative to some of their elements, which need not be centred."""
        return Euclidean(self.shape)

    def relative_to(self, state: Tensor, known: Tensor, mask: Mask = None) -> Tensor:
        """The sets moved so that the mean of their elements `known`, bool `[B, N]`, is zero; of all where none is."""
        chosen = torch.where(known.any(1, keepdim=True), known, torch.ones_like(known) if mask is None else mask)
        weights = chosen.to(state.dtype)[..., None]
        centre = (state * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
        return self.anchored.project(state - centre, mask)


@dataclass(frozen=True)
class SymmetricPairs:
    """Symmetric tensors with zero diagonal: a vector of length d for each pair of N elements.

    Noise is drawn for i < j and mirrored, so that every entry has unit variance. There are N (N - 1) / 2 * d degrees of
    freedom.

    * `shape`: (N, N, d).
    """

    shape: tuple[int, int, int]

    def __str__(self) -> str:
        return _by(self.shape)

    def empty(self, batch: int) -> Tensor:
        return torch.zeros(batch, *self.shape)

    def noise(self, normal: Tensor, mask: Mask = None) -> Tensor:
        n = normal.shape[1]
        upper = normal * torch.ones(n, n, dtype=normal.dtype, device=normal.device).triu(1)[..., None]
        return self._masked(upper + upper.transpose(1, 2), mask)

    def project(self, state: Tensor, mask: Mask = None) -> Tensor:
        n = state.shape[1]
        off_diagonal = 1 - torch.eye(n, dtype=state.dtype, device=state.device)[..., None]
        return self._masked((state + state.transpose(1, 2)) / 2 * off_diagonal, mask)

    def degrees_of_freedom(self, state: Tensor, mask: Mask = None) -> Tensor:
        n = state.new_full((len(state),), float(state.shape[1])) if mask is None else mask.sum(1).to(state.dtype)
        return n * (n - 1) / 2 * state.shape[3]

    def squared_norm(self, state: Tensor, mask: Mask = None) -> Tensor:
        return _square(self.project(state, mask)) / 2

    def gradient(self, derivative: Tensor, mask: Mask = None) -> Tensor:
        # Entries (i, j) and (j, i) are one coordinate: its derivative is the sum of theirs.
        return 2 * self.project(derivative, mask)

    def factors(self, values: Tensor, mask: Mask = None) -> Tensor:
        return (values + values.transpose(1, 2)) / 2

    def total(self, factors: Tensor, mask: Mask = None) -> Tensor:
        return self.project(factors, mask).flatten(1).sum(1) / 2

    @staticmethod
    def _masked(state: Tensor, mask: Mask) -> Tensor:
        if mask is None:
            return state
        return state * (mask[:, :, None] & mask[:, None, :])[..., None].to(state.dtype)


@dataclass(frozen=True)
class Whole:
    """The states of another space as a part of a product in which they have no elements: masks are ignored.

    In a joint state, some numbers or a picture lie beside a set whose size varies.

    * `of`: the space of the states.
    """

    of: "Space"

    def __str__(self) -> str:
        return str(self.of)

    def empty(self, batch: int) -> State:
        return self.of.empty(batch)

    def noise(self, normal: State, mask: Mask = None) -> State:
        return self.of.noise(normal)

    def project(self, state: State, mask: Mask = None) -> State:
        return self.of.project(state)

    def degrees_of_freedom(self, state: State, mask: Mask = None) -> Tensor:
        return self.of.degrees_of_freedom(state)

    def squared_norm(self, state: State, mask: Mask = None) -> Tensor:
        return self.of.squared_norm(state)

    def gradient(self, derivative: State, mask: Mask = None) -> State:
        return self.of.gradient(derivative)

    def factors(self, values: State, mask: Mask = None) -> State:
        return self.of.factors(values)

    def total(self, factors: State, mask: Mask = None) -> Tensor:
        return self.of.total(factors)


@dataclass(frozen=True)
class Product:
    """The product of several named spaces; the state is a TensorDict.

    * `parts`: the space of each field, by name. All parts with elements share one mask.
    """

    parts: Mapping[str, Space] = field(default_factory=dict)

    def empty(self, batch: int) -> "TensorDict":
        return named({name: part.empty(batch) for name, part in self.parts.items()})

    def noise(self, normal: State, mask: Mask = None) -> "TensorDict":
        return self._each(normal, lambda part, value: part.noise(value, mask))

    def project(self, state: State, mask: Mask = None) -> "TensorDict":
        return self._each(state, lambda part, value: part.project(value, mask))

    def degrees_of_freedom(self, state: State, mask: Mask = None) -> Tensor:
        return self._total(state, lambda part, value: part.degrees_of_freedom(value, mask))

    def squared_norm(self, state: State, mask: Mask = None) -> Tensor:
        return self._total(state, lambda part, value: part.squared_norm(value, mask))

    def gradient(self, derivative: State, mask: Mask = None) -> "TensorDict":
        return self._each(derivative, lambda part, value: part.gradient(value, mask))

    def factors(self, values: State, mask: Mask = None) -> "TensorDict":
        return self._each(values, lambda part, value: part.factors(value, mask))

    def total(self, factors: State, mask: Mask = None) -> Tensor:
        return self._total(factors, lambda part, value: part.total(value, mask))

    def _each(self, state: State, function: Callable[[Space, Tensor], State]) -> "TensorDict":
        values = fields(state)
        return named({name: function(part, values[name]) for name, part in self.parts.items()})

    def _total(self, state: State, function: Callable[[Space, Tensor], Tensor]) -> Tensor:
        values = fields(state)
        return torch.stack([function(part, values[name]) for name, part in self.parts.items()]).sum(0)


def space_of(space: Space, name: str) -> Space:
    """The space of the field `name` of a product of spaces, or `space` itself for the field `""` of a plain tensor.

    Raises `TypeError` for fields of a space that is not a `Product`.
    """
    if isinstance(space, Product):
        return space.parts[name]
    if name:
        raise TypeError(f"the field {name!r} needs a space of its own: make the space a Product, not {space}")
    return space


def describe_difference(space: Space, other: Space) -> str:
    """How `space` differs from `other`, field by field, in words; empty if they are equal."""
    if space == other:
        return ""
    parts, others = (dict(s.parts) if isinstance(s, Product) else {"states": s} for s in (space, other))
    if parts.keys() != others.keys():
        return f"{', '.join(parts)}, not {', '.join(others)}"
    return "; ".join(
        f"{name} {part}, not {others[name]}" if str(part) != str(others[name]) else f"{name} with another scale"
        for name, part in parts.items()
        if part != others[name]
    )
