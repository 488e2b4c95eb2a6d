"""Means and standard deviations of the channels of a state."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields, named

Channels = Mapping[str, Tensor]
"""A number for each channel of each field, `[C]` by the name of the field."""


def along(numbers: Tensor, axis: int, like: Tensor) -> Tensor:
    """The numbers of the channels `[C]` in the shape that multiplies `like`, whose axis `axis` has the channels."""
    shape = [1] * like.ndim
    shape[axis] = -1
    return numbers.to(like).reshape(shape)


def scaled(state: State, axis: int, factors: Channels, shifts: Channels | None = None) -> State:
    """Each channel of the state times its factor, plus its shift."""

    def of(name: str, field: Tensor) -> Tensor:
        product = field * along(factors[name], axis, field)
        return product if shifts is None else product + along(shifts[name], axis, field)

    if isinstance(state, Tensor):
        return of("", state)
    return named({name: of(name, field) for name, field in fields(state).items()})


def rows_of(field: Tensor, axis: int, mask: Mask = None) -> Tensor:
    """The vectors of channels at all places of a batch, `[n, C]`; with `mask` `[B, N]`, of existing elements only.

    Elements are along axis 1, and the channels are not.
    """
    if mask is not None:
        field, axis = field[mask], (axis % field.ndim) - 1  # [existing, ...]
    return field.movedim(axis, -1).flatten(0, -2)


def batch_std(state: State, axis: int, mask: Mask = None) -> dict[str, Tensor]:
    """The standard deviation of each channel over a batch, differentiable, and at least 1e-4."""
    return {
        name: rows_of(field, axis, mask).var(0, correction=0).add(1e-8).sqrt() for name, field in fields(state).items()
    }


@torch.no_grad()
def exact_moments(parts: Iterable[tuple[State, Mask]], axis: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The mean and the standard deviation of each channel over all parts, in float64.

    Computed in two passes: the mean first, then the mean of the squared distances from it. So `parts` are gone through
    twice, and one of them is in memory at a time if they are made on the way.
    """
    counts: dict[str, int] = {}
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    for state, mask in parts:
        for name, field in fields(state).items():
            rows = rows_of(field, axis, mask).double()
            counts[name] = counts.get(name, 0) + len(rows)
            sums[name] = sums.get(name, 0) + rows.sum(0)
    means = {name: total / counts[name] for name, total in sums.items()}
    for state, mask in parts:
        for name, field in fields(state).items():
            distances = rows_of(field, axis, mask).double() - means[name]
            squares[name] = squares.get(name, 0) + distances.square().sum(0)
    return means, {name: (total / counts[name]).sqrt() for name, total in squares.items()}
