"""Measurement operators: the linear functions A of a measurement y = A x0 + noise.

An operator takes a state `[B, ...]` and returns a state `[B, ...]` of any shape, which may have fewer fields. Where
its adjoint is needed, autograd computes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.names import names_in
from diffcore.states.noise import TRY, Draws
from diffcore.states.placement import to_device
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, fields, first_field, map_fields, named

Operator = Callable[[State], State]
"""A linear function of a state."""

Bounds = tuple[State, State]
"""The smallest and the largest value of each entry, two states `[1, ...]`."""


def of_samples(state: State, indices: Sequence[int]) -> State:
    """The samples `indices` of `state`, or its only sample if it has one for all.

    Index i + t `TRY` is another try of sample i, which has to agree with the same values.
    """
    if state.shape[0] == 1:
        return state
    indices = [index % TRY for index in indices]
    if len(indices) and (last := max(indices)) >= state.shape[0]:
        raise UserError(
            f"the values that are known are those of {state.shape[0]} samples, and sample {last} is to be drawn: give "
            "one for all samples, or one for each"
        )
    return state[indices]


_BISECTIONS = 50
"""More halvings of an interval do not change a number in float32, nor by more than 1e-13 in float64."""


@dataclass(frozen=True, eq=False)
class Keep:
    """Keep the known entries: x0 where `known` is True, zero elsewhere.

    `known` is a state of booleans, `[B, ...]`, or `[1, ...]` for all samples alike. A field of x0 that `known` lacks
    is entirely unknown. In a space whose entries depend on each other (zero centre, symmetric pairs) use
    `KeepElements`.
    """

    known: State

    def __call__(self, x0: State) -> State:
        return map_fields(lambda kept, value: value * kept.to(value.device), self.known, x0)

    def rows(self, indices: Sequence[int]) -> "Keep":
        """The operator for the samples with these indices."""
        return Keep(of_samples(self.known, indices))


@dataclass(frozen=True, eq=False)
class KeepElements:
    """Keep the known elements of a set: the projection of `space` with the known elements as its mask.

    `known` `[B, N]` (or `[1, N]` for all samples alike) is True where an element is known. What is kept depends on the
    field:

    * Euclidean: the entries of the known elements.
    * Symmetric pairs: the pairs of two known elements.
    * Zero-centred: the positions of the known elements relative to their own centre. Their position in the whole set
      stays free, because the centre of the whole depends on the unknown elements.

    `of` names the fields that are known, if not all of them are.
    """

    known: Tensor
    space: Space
    of: tuple[str, ...] | None = None

    def __call__(self, x0: State) -> State:
        kept = self.space.project(x0, self.known.to(first_field(x0).device).expand(x0.shape[0], -1))
        if self.of is None or isinstance(kept, Tensor):
            return kept
        return named({name: fields(kept)[name] for name in names_in(self.of)})

    def rows(self, indices: Sequence[int]) -> "KeepElements":
        """The operator for the samples with these indices."""
        return replace(self, known=of_samples(self.known, indices))


@dataclass(frozen=True, eq=False)
class KeepBoth:
    """Keep known entries of some fields, and known elements of others."""

    entries: Keep
    elements: KeepElements

    def __call__(self, x0: State) -> State:
        return named({**fields(self.entries(x0)), **fields(self.elements(x0))})

    def rows(self, indices: Sequence[int]) -> "KeepBoth":
        """The operator for the samples with these indices."""
        return KeepBoth(self.entries.rows(indices), self.elements.rows(indices))


Operation = Keep | KeepElements | KeepBoth
"""What keeps the known part of a state."""


@dataclass(frozen=True)
class Coarse:
    """Block means of a field `[B, C, ...]`: averages over blocks of `factor` entries along each axis after C.

    `field` is the name of the field in a state of several fields. Raises `UserError` if the length of an axis is
    not a multiple of `factor`.
    """

    factor: int
    field: str = ""

    def __call__(self, x0: State) -> State:
        coarse = self._average(fields(x0)[self.field])
        return coarse if isinstance(x0, Tensor) else named({self.field: coarse})

    def matched(self, x0: State, coarse: State, bounds: Bounds | None = None) -> State:
        """The state nearest to x0 (in the Euclidean distance) whose block means are `coarse` `[B, ...]`.

        With `bounds`, all entries lie between these two states, `[1, ...]`, which are the same within a block; block
        means outside of them become the nearest bound. In each block, the result is clamp(x0 + t) with one number t
        per channel, which is the projection onto a plane within a box; t is found by bisection.
        """
        value, wanted = fields(x0)[self.field], fields(coarse)[self.field]
        if bounds is None:
            moved = value + self._spread(wanted - self._average(value))
        else:
            low, high = (to_device(fields(bound)[self.field].to(value.dtype), value.device) for bound in bounds)
            left = torch.zeros_like(wanted) + (low.min() - value.max())
            right = torch.zeros_like(wanted) + (high.max() - value.min())
            for _ in range(_BISECTIONS):
                middle = (left + right) / 2
                below = self._average((value + self._spread(middle)).clamp(low, high)) < wanted
                left, right = torch.where(below, middle, left), torch.where(below, right, middle)
            moved = (value + self._spread((left + right) / 2)).clamp(low, high)
        return moved if isinstance(x0, Tensor) else named({**fields(x0), self.field: moved})

    def _spread(self, blocks: Tensor) -> Tensor:
        """Each value of a block for all entries of the block: the inverse shape of `_average`."""
        for axis in range(2, blocks.ndim):
            blocks = blocks.repeat_interleave(self.factor, axis)
        return blocks

    def _average(self, value: Tensor) -> Tensor:
        batch, channels, *sides = value.shape
        if not sides or any(side % self.factor for side in sides):
            size = "x".join(map(str, sides)) or "no grid"
            raise UserError(f"blocks of {self.factor} do not divide a grid of {size}")
        blocks = [part for side in sides for part in (side // self.factor, self.factor)]
        return value.reshape(batch, channels, *blocks).mean(tuple(range(3, 3 + 2 * len(sides), 2)))


def keep(known: State, space: Space) -> Operation:
    """The operator that keeps what is `known`, after checking that it fits the space (`require_known`).

    It is `Keep(known)`. If the entries of the space depend on each other, so that they cannot be kept one by one, whole
    elements can be kept: the result is then `KeepElements`, or `KeepBoth` if entries of other fields are known that are
    not those of whole elements. Raises `ValueError` for entries that depend on others and that are not those of whole
    elements.
    """
    require_known(known, space)
    return within_space(known, space)


def require_known(known: State, space: Space) -> None:
    """Raise `UserError` if `known` is no state of booleans of the space, or is True everywhere or nowhere."""
    _check_shapes("the argument known", known, space.empty(1), partial=True)
    flags = [value.bool() for value in fields(known).values()]
    if not any(value.any() for value in flags):
        raise UserError(
            "no entry is known, so there is nothing to start from (the mask file is white everywhere, or the part is "
            "empty): draw samples without inpainting"
        )
    if len(flags) == len(fields(space.empty(1))) and all(value.all() for value in flags):
        raise UserError(
            "every entry is known, so there is nothing to fill in (the mask file is black everywhere, or the part is a "
            "whole sample)"
        )


def within_space(known: State, space: Space) -> Operation:
    """The operator that keeps what is `known`, see `keep`, where `known` may also be True everywhere or nowhere."""
    operator = Keep(map_fields(lambda value: value.bool(), known))
    batch = known.shape[0]
    point = space.noise(Draws.of(0, range(batch)).normal("point", space.empty(batch)))
    dependent = _outside(operator, point, space)
    if not dependent:
        return operator
    whole, flags = keep_elements(known, space), fields(operator.known)
    kept, entries = fields(whole(point)), fields(point)
    elsewhere = [name for name, flag in flags.items() if name in kept and bool(((kept[name] != 0) & ~flag).any())]
    without_elements = [name for name in dependent if flags[name].any() and not elements_of(flags[name]).any()]
    if elsewhere or without_elements:
        raise ValueError(
            "the known entries cannot be kept one by one, because the space makes them depend on others; "
            "keep whole elements with KeepElements"
        )
    others = {name: flag for name, flag in flags.items() if name in kept and name not in dependent}
    if not any(bool((flag & (kept[name] == 0) & (entries[name] != 0)).any()) for name, flag in others.items()):
        return whole
    return KeepBoth(Keep(named(others)), keep_elements(named({name: flags[name] for name in dependent}), space))


def _outside(operator: Keep, point: State, space: Space) -> list[str]:
    """The fields in which the kept entries of a point of the space, with zeros elsewhere, are no point of the space."""
    kept = operator(point)
    point = kept if isinstance(point, Tensor) else named(fields(point) | fields(kept))
    difference = combine((1.0, space.project(point)), (-1.0, point))
    return [name for name, value in fields(difference).items() if not bool(value.abs().max() <= 1e-4)]


def keep_elements(known: State, space: Space) -> KeepElements:
    """Keep the elements of which an entry is known; fields of which no entry is known stay free."""
    flags = {name: elements_of(flag) for name, flag in fields(known).items()}
    elements = torch.stack([*flags.values()]).any(0)
    return KeepElements(elements, space, tuple(name for name, flag in flags.items() if bool(flag.any())))


def elements_of(known: Tensor) -> Tensor:
    """The elements of which a field `[B, N, ...]` has known entries, bool `[B, N]`.

    Of a field over pairs, `[B, N, N, ...]`, these are the elements whose pair with themselves is known: a pair of two
    elements may be known although one of them is not.
    """
    if known.ndim > 3 and known.shape[1] == known.shape[2]:
        known = known.diagonal(dim1=1, dim2=2).movedim(-1, 1)
    return known.flatten(2).any(2) if known.ndim > 2 else known


def existing(known: State, space: Space, mask: Mask) -> State:
    """`known`, a state of booleans, that is False where elements do not exist."""
    if mask is None:
        return known
    normal = Draws.of(0, range(len(mask))).normal("there", space.empty(len(mask)))
    partial, whole = space.noise(normal, mask.cpu()), space.noise(normal)

    def there(flag: Tensor, value: Tensor, of_all: Tensor) -> Tensor:
        # The pair of an element with itself has no noise, also where the element exists.
        exists = (value != 0) | ((of_all == 0) & mask.cpu().reshape(*mask.shape, *[1] * (value.ndim - 2)))
        return flag & exists.to(flag.device)

    return map_fields(there, known, partial, whole)


def check_measurement(operator: Operator, measurement: State, space: Space) -> None:
    """Raise `UserError` if `measurement` is not finite or lacks the fields and shapes that `operator` returns."""
    _check_shapes("the measurement", measurement, operator(space.empty(measurement.shape[0])))
    if not all(value.isfinite().all() for value in fields(measurement).values()):
        raise UserError("the measurement holds values that are not finite")


def _check_shapes(what: str, state: State, expected: State, partial: bool = False) -> None:
    """Raise `UserError` if fields or shapes (without the batch) differ; `partial` allows fields to be missing."""
    actual, target = fields(state), fields(expected)
    if not (actual.keys() <= target.keys() if partial else actual.keys() == target.keys()):
        names = (", ".join(name or "one unnamed tensor" for name in group) for group in (actual, target))
        raise UserError("{} has the fields {}; they should be {}".format(what, *names))
    for name, value in actual.items():
        shape, needed = tuple(value.shape[1:]), tuple(target[name].shape[1:])
        if shape != needed:
            where = f" in the field {name}" if name else ""
            raise UserError(f"{what} has the shape {shape}{where}; it should be {needed}")
