"""The geometry of noise: what kind of tensor a field is, and what Gaussian noise in it means.

A space turns independent standard normal numbers into its own noise, projects onto itself and counts its
degrees of freedom. Noise has unit variance in each direction of the space. `mask` `[B, N]` is True where an
element exists; it is None where all do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.states.state import State, fields

Mask = Tensor | None


class Space(Protocol):
    """What the core asks of a space."""

    def empty(self, batch: int) -> State:
        """A batch of zeros of the space's shape."""

    def noise(self, normal: State, mask: Mask = None) -> State:
        """Standard Gaussian noise in the space out of independent standard normal numbers of the same shape."""

    def project(self, state: State, mask: Mask = None) -> State:
        """The nearest point of the space."""

    def degrees_of_freedom(self, state: State, mask: Mask = None) -> Tensor:
        """The dimension of the space of each sample, `[B]` float."""

    def squared_norm(self, state: State, mask: Mask = None) -> Tensor:
        """|x|^2 of the projection of each sample, `[B]`; that of noise is a chi-squared of those freedoms."""

    def gradient(self, derivative: State, mask: Mask = None) -> State:
        """The gradient in the space of a function, out of its derivative with respect to each entry of the tensor.

        The g in the space with `<g, d> = sum(derivative * d)` for every direction d of the space, where `<d, d>` is
        `squared_norm(d)`. A score is such a gradient.
        """


def _elements(mask: Tensor, like: Tensor) -> Tensor:
    """`mask` `[B, N]` with trailing axes, in the type of `like` `[B, N, ...]`."""
    return mask.reshape(*mask.shape, *[1] * (like.ndim - 2)).to(like.dtype)


def _by(shape: tuple[int, ...]) -> str:
    """What a space is called where users read of it: its shape."""
    return " x ".join(map(str, shape))


def _square(state: Tensor) -> Tensor:
    """Sum of squares of each sample, `[B]`."""
    return state.square().flatten(1).sum(1)


@dataclass(frozen=True)
class Euclidean:
    """All tensors of `shape`; with a mask, those that are zero outside it along the first axis."""

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


@dataclass(frozen=True)
class ZeroCentred:
    """Sets of N vectors `[N, d]` whose mean is zero: positions up to translation.

    The orthogonal projection of standard noise is standard noise of the subspace, with (N - 1) d degrees of
    freedom (Hoogeboom et al. 2022, EDM for molecules, section 3).
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


@dataclass(frozen=True)
class SymmetricPairs:
    """Symmetric pairwise tensors `[N, N, d]` without diagonal: one value for each pair of elements.

    Noise is drawn for i < j and mirrored, so every entry has unit variance: N (N - 1) / 2 * d degrees of freedom.
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

    @staticmethod
    def _masked(state: Tensor, mask: Mask) -> Tensor:
        if mask is None:
            return state
        return state * (mask[:, :, None] & mask[:, None, :])[..., None].to(state.dtype)


@dataclass(frozen=True)
class Product:
    """Several named spaces together; the state is a TensorDict."""

    parts: Mapping[str, Space] = field(default_factory=dict)

    def empty(self, batch: int) -> TensorDict:
        return TensorDict({name: part.empty(batch) for name, part in self.parts.items()}, batch_size=[batch])

    def noise(self, normal: State, mask: Mask = None) -> TensorDict:
        return self._each(normal, lambda part, value: part.noise(value, mask))

    def project(self, state: State, mask: Mask = None) -> TensorDict:
        return self._each(state, lambda part, value: part.project(value, mask))

    def degrees_of_freedom(self, state: State, mask: Mask = None) -> Tensor:
        return self._total(state, lambda part, value: part.degrees_of_freedom(value, mask))

    def squared_norm(self, state: State, mask: Mask = None) -> Tensor:
        return self._total(state, lambda part, value: part.squared_norm(value, mask))

    def gradient(self, derivative: State, mask: Mask = None) -> TensorDict:
        return self._each(derivative, lambda part, value: part.gradient(value, mask))

    def _each(self, state: State, function: Callable[[Space, Tensor], State]) -> TensorDict:
        values = fields(state)
        return TensorDict({k: function(part, values[k]) for k, part in self.parts.items()}, batch_size=state.shape[:1])

    def _total(self, state: State, function: Callable[[Space, Tensor], Tensor]) -> Tensor:
        values = fields(state)
        return torch.stack([function(part, values[name]) for name, part in self.parts.items()]).sum(0)


def describe_difference(space: Space, other: Space) -> str:
    """In what `space` is not `other`, field by field, in words; empty where they are the same."""
    if space == other:
        return ""
    parts, others = (dict(s.parts) if isinstance(s, Product) else {"states": s} for s in (space, other))
    if parts.keys() != others.keys():
        return f"{', '.join(parts)}, not {', '.join(others)}"
    return "; ".join(
        f"{name} {part}, not {others[name]}" if str(part) != str(others[name]) else f"{name} scaled otherwise"
        for name, part in parts.items()
        if part != others[name]
    )
