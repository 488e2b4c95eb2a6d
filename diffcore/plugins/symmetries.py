"""Random transforms of states for `diffcore.plugins.contract.Contract`, each sample by its own.

Fields are named as in the state's TensorDict; a state of one tensor has no names to give. Fields are batch first, and
where they are sets their elements are axis 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffcore.plugins.contract import Act, Transform
from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields, named


def permutation(*pairs: str) -> Act:
    """The elements of each set in another order; fields named in `pairs` have elements as axes 1 and 2."""

    def act(state: State, mask: Mask, generator: torch.Generator) -> Transform:
        batch, count = next(iter(fields(state).values())).shape[:2] if mask is None else mask.shape
        order = torch.rand(batch, count, generator=generator).argsort(1)
        rows = torch.arange(batch)[:, None]

        def moved(name: str, value: Tensor) -> Tensor:
            value = value[rows, order]
            return value.transpose(1, 2)[rows, order].transpose(1, 2) if name in pairs else value

        return Transform(lambda s: _by_name(moved, s), lambda m: m[rows, order])

    return act


def rotation(*names: str) -> Act:
    """Vectors `[B, ..., d]`, the last axis of the fields `names` (all where none is named), turned about the origin."""
    return _orthogonal(names, 1.0)


def reflection(*names: str) -> Act:
    """The same with a mirror: orthogonal maps of determinant -1."""
    return _orthogonal(names, -1.0)


def _orthogonal(names: tuple[str, ...], determinant: float) -> Act:
    def act(state: State, mask: Mask, generator: torch.Generator) -> Transform:
        chosen = [value for name, value in fields(state).items() if not names or name in names]
        batch, dimension = len(chosen[0]), chosen[0].shape[-1]
        normal = torch.randn(batch, dimension, dimension, generator=generator, dtype=torch.float64)
        # Q of a normal matrix is uniform over the orthogonal group once R has a positive diagonal (Mezzadri 2007).
        q, r = torch.linalg.qr(normal)
        q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
        q[:, :, 0] *= (q.det().sign() * determinant)[:, None]

        def turned(name: str, value: Tensor) -> Tensor:
            if names and name not in names:
                return value
            return torch.einsum("b...i,bij->b...j", value, q.to(value))

        return Transform(lambda s: _by_name(turned, s))

    return act


def translation(*names: str, scale: float = 1.0) -> Act:
    """A vector of normal numbers times `scale`, added to the last axis of the fields `names`; all where none is."""

    def act(state: State, mask: Mask, generator: torch.Generator) -> Transform:
        chosen = [value for name, value in fields(state).items() if not names or name in names]
        shift = scale * torch.randn(len(chosen[0]), chosen[0].shape[-1], generator=generator)

        def shifted(name: str, value: Tensor) -> Tensor:
            if names and name not in names:
                return value
            return value + shift.to(value).reshape(len(value), *[1] * (value.ndim - 2), -1)

        return Transform(lambda s: _by_name(shifted, s))

    return act


def flip(axis: int, *names: str) -> Act:
    """An axis of the fields `names` (all where none is named) in reverse; the batch is axis 0."""

    def act(state: State, mask: Mask, generator: torch.Generator) -> Transform:
        def flipped(name: str, value: Tensor) -> Tensor:
            return value if names and name not in names else value.flip(axis)

        return Transform(lambda s: _by_name(flipped, s), lambda m: m.flip(1) if axis == 1 else m)

    return act


def _by_name(function: Callable[[str, Tensor], Tensor], state: State) -> State:
    if isinstance(state, Tensor):
        return function("", state)
    moved = {name: function(name, value) for name, value in fields(state).items()}
    return named(moved)
