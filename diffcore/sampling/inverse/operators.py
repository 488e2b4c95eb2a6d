"""Measurements of states: what is known of x0 is y = A x0 + noise, and these are the A.

An operator is a linear function of a state `[B, ...]` that gives a state `[B, ...]` of any shape, perhaps of fewer
fields. Its adjoint, where one is needed, comes from autograd.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tensordict import TensorDict
from torch import Tensor

from diffcore.errors import UserError
from diffcore.states.noise import SampleNoise
from diffcore.states.spaces import Space
from diffcore.states.state import State, combine, fields, first_field, map_fields

Operator = Callable[[State], State]


@dataclass(frozen=True, eq=False)
class Keep:
    """The entries that are known: x0 where `mask` is True, zero elsewhere.

    `mask` is a state of booleans, `[B, ...]` or `[1, ...]` for all samples alike. Fields that it does not name are
    free. Entries of a space that ties them together (a zero centre, symmetric pairs) are kept by `KeepElements`.
    """

    mask: State

    def __call__(self, x0: State) -> State:
        return map_fields(lambda kept, value: value * kept.to(value.device), self.mask, x0)


@dataclass(frozen=True, eq=False)
class KeepElements:
    """The elements of a set that are known, with all that the space says of them: the projection onto them alone.

    `elements` `[B, N]` (or `[1, N]`) is True where an element is known. Of a Euclidean field these are the elements'
    entries, of symmetric pairs the pairs among them, and of a zero-centred field their positions relative to the
    centre of the known ones: where these lie in the whole is not known, since the centre of the whole depends on the
    elements that are not.
    """

    elements: Tensor
    space: Space

    def __call__(self, x0: State) -> State:
        return self.space.project(x0, self.elements.to(first_field(x0).device).expand(x0.shape[0], -1))


@dataclass(frozen=True)
class Coarse:
    """Means over blocks of `factor` entries along each grid axis of one field: all axes after the first, `[B, C, ...]`.

    `field` is its name in a state of several. Raises `UserError` where a grid axis is not a multiple of `factor`.
    """

    factor: int
    field: str = ""

    def __call__(self, x0: State) -> State:
        coarse = self._average(fields(x0)[self.field])
        return coarse if isinstance(x0, Tensor) else TensorDict({self.field: coarse}, batch_size=coarse.shape[:1])

    def _average(self, value: Tensor) -> Tensor:
        batch, channels, *sides = value.shape
        if not sides or any(side % self.factor for side in sides):
            size = "x".join(map(str, sides)) or "no grid"
            raise UserError(f"blocks of {self.factor} do not divide a grid of {size}")
        blocks = [part for side in sides for part in (side // self.factor, self.factor)]
        return value.reshape(batch, channels, *blocks).mean(tuple(range(3, 3 + 2 * len(sides), 2)))


def keep(mask: State, space: Space) -> Keep:
    """`Keep(mask)`, once the mask has been compared with the space.

    Raises `UserError` where it names fields that the space lacks, has another shape, or knows all or nothing, and
    `ValueError` where the space ties its entries together, so that they cannot be kept one by one.
    """
    _check_shapes("the mask", mask, space.empty(1), partial=True)
    known = [value.bool() for value in fields(mask).values()]
    if not any(value.any() for value in known):
        raise UserError("the mask leaves nothing known: there is nothing to go by; draw samples without it")
    if len(known) == len(fields(space.empty(1))) and all(value.all() for value in known):
        raise UserError("the mask leaves nothing to be filled in: every entry is known")
    operator = Keep(map_fields(lambda value: value.bool(), mask))
    point = space.noise(SampleNoise(0, range(mask.shape[0])).normal(space.empty(mask.shape[0])))
    kept = operator(point)
    point = kept if isinstance(point, Tensor) else TensorDict(fields(point) | fields(kept), point.batch_size)
    moved = combine((1.0, space.project(point)), (-1.0, point))
    if any(value.abs().max() > 1e-4 for value in fields(moved).values()):
        raise ValueError("the kept entries alone are no point of the space; keep whole elements with KeepElements")
    return operator


def check_measurement(operator: Operator, measurement: State, space: Space) -> None:
    """Raise `UserError` where `measurement` is not what `operator` gives of a state of `space`, or is not finite."""
    _check_shapes("the measurement", measurement, operator(space.empty(measurement.shape[0])))
    if not all(value.isfinite().all() for value in fields(measurement).values()):
        raise UserError("the measurement holds values that are not finite")


def _check_shapes(what: str, found: State, expected: State, partial: bool = False) -> None:
    """Compare fields and shapes, the batch left out; `partial` allows fields to be missing."""
    given, wanted = fields(found), fields(expected)
    if not (given.keys() <= wanted.keys() if partial else given.keys() == wanted.keys()):
        names = (", ".join(name or "one unnamed tensor" for name in group) for group in (given, wanted))
        raise UserError("{} has the fields {}; they should be {}".format(what, *names))
    for name, value in given.items():
        if value.shape[1:] != wanted[name].shape[1:]:
            of, sizes = f" of {name}" if name else "", (tuple(value.shape[1:]), tuple(wanted[name].shape[1:]))
            raise UserError(f"{what}{of} has the shape {sizes[0]}; it should be {sizes[1]}")
