"""A known part of a sample whose place and size in the whole are not known: they are drawn.

The part is known as p, and is s p + t in the sample, with a number s > 0 and shifts t. If the unit and the origin of p
are arbitrary, so that log s and t / s have flat priors, and p has d numbers and k shifts, then

    p(x0 | p) ~ p(x0) s^(d - k - 1) on the states whose known part is s p + t for some s and t.

That x0 lies there is a linear measurement: what remains of its known part without the projection onto p and the shifts
is zero (`UpTo`), which `diffcore.sampling.inverse.editing.measured` takes care of. Without the factor, samples would
collapse: points at one place are as probable as points anywhere else. Of the corrected estimate x0, s has the
distribution N(s_hat, v) s^(d - k - 1), whose mode takes the place of s_hat (a Laplace approximation)::

    s = (s_hat + sqrt(s_hat^2 + 4 (d - k - 1) v)) / 2,   v = sigma^2 / (alpha^2 + sigma^2) / |p|^2

v is the variance of s given x for data of unit variance, which is too large where the network knows more.
"""

from dataclasses import dataclass, replace

import torch

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.errors import UserError
from diffcore.sampling.inverse.operators import Operation
from diffcore.states.level import Levels, by_field
from diffcore.states.placement import to_device
from diffcore.states.spaces import Mask
from diffcore.states.state import State, combine, dot, fields, from_fields, map_fields


@dataclass(frozen=True, eq=False)
class Unplaced:
    """What a known part may become: s `size` + a sum of multiples of the `shifts`.

    * `size`: the part p, a state `[1, ...]` about its own centre, with zeros where nothing is known.
    * `shifts`: states `[k, ...]` with zeros where nothing is known, orthogonal to `size`.
    """

    size: State
    shifts: State

    @property
    def powers(self) -> float:
        """d - k - 1, for a part of d numbers."""
        numbers = sum(int((value != 0).any(0).sum()) for value in fields(self.shifts).values())
        return float(numbers - self.shifts.shape[0] - 1)


@dataclass(frozen=True, eq=False)
class UpTo:
    """Keep the known part of a state up to its place and size: (I - P) K x0, with the projection P onto `directions`.

    * `keep`: K, what keeps the known part.
    * `directions`: orthonormal states `[n, ...]` of that part.
    """

    keep: Operation
    directions: State

    def __call__(self, x0: State) -> State:
        kept = self.keep(x0)
        rows = [_row(self.directions, number, kept) for number in range(self.directions.shape[0])]
        return combine((1.0, kept), *((-dot(row, kept), row) for row in rows))


def up_to(keep: Operation, part: Unplaced) -> UpTo:
    """The operator that keeps the part up to its place and size.

    Raises `UserError` if size and shifts are not independent.
    """
    both = map_fields(lambda size, shifts: torch.cat([size, shifts]), part.size, part.shifts)
    return UpTo(keep, orthonormal(keep(both)))


def orthonormal(states: State) -> State:
    """Orthonormal states `[n, ...]` that span what the `states` `[n, ...]` span, by a QR decomposition in float64.

    Raises `UserError` if they are not independent.
    """
    parts = fields(states)
    rows = torch.cat([value.flatten(1).double() for value in parts.values()], 1)
    basis, triangle = torch.linalg.qr(rows.T)
    if bool((triangle.diagonal().abs() <= 1e-6 * rows.norm(dim=1)).any()):
        raise UserError("the known part is too small to have a place and a size, such as a single point")
    pieces = basis.T.split([value[0].numel() for value in parts.values()], 1)
    shaped = zip(parts.items(), pieces, strict=True)
    return from_fields({name: piece.reshape(value.shape).to(value.dtype) for (name, value), piece in shaped})


def sized(denoise: Denoise, part: Unplaced) -> Denoise:
    """A denoiser whose estimates have the part in the size that is most probable: s in place of s_hat (see above)."""
    squared = dot(part.size, part.size).item()
    powers = part.powers

    def given(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        prediction = denoise(x, level, conditions, mask)
        size = _row(part.size, 0, prediction.x0)
        found = dot(size, prediction.x0) / squared
        wanted = (found + (found**2 + 4 * powers * _noise(level) / squared).sqrt()) / 2
        return replace(prediction, output=combine((1.0, prediction.x0), (wanted - found, size)), view="x0")

    return given


def _noise(level: Levels) -> float:
    """sigma^2 / (alpha^2 + sigma^2); of levels by field, the mean."""
    each = by_field(lambda own: (own.sigma / own.total) ** 2, level)
    return sum(each.values()) / len(each) if isinstance(each, dict) else float(each)


def _row(states: State, number: int, like: State) -> State:
    """One of the `states`, `[1, ...]`, with the fields, types and devices of `like`."""
    own = fields(states)
    return from_fields(
        {
            name: to_device(own[name][number : number + 1].to(value.dtype), value.device)
            for name, value in fields(like).items()
        }
    )
