"""Runge-Kutta integration with separate step sizes for each sample.

The step size of a sample depends on its own error alone, so that its result is the same in a batch of 1 and of 64.
Libraries such as torchdiffeq use one step size for the whole batch, from the errors of all samples.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.states.state import State, combine, first_field, map_fields

Parts = tuple[State, ...]
"""The variables that are integrated: several states of the same batch."""

Slope = Callable[[Tensor, Parts], Parts]
"""dy/dt at times `[B]`, float64."""

Norm = Callable[[Parts, Parts], Tensor]
"""norm(error, parts): the size `[B]` of the estimated error of `parts`, relative to the tolerance."""

_TIMES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def fixed(slope: Slope, parts: Parts, start: float, end: float, steps: int) -> Parts:
    """Integrate `parts` from the time `start` to `end` in `steps` equal steps of order 5, with six slopes each.

    Dormand & Prince 1980, RK5(4)7M, without the error estimate.
    """
    step = (end - start) / steps
    like = first_field(parts[0])
    for index in range(steps):
        time = like.new_full((len(like),), start + index * step, dtype=torch.float64)
        parts = _stages(slope, time, time.new_full(time.shape, step), parts, [slope(time, parts)], last=6)[0]
    return parts


def adaptive(slope: Slope, parts: Parts, start: float, end: float, norm: Norm) -> Parts:
    """Integrate `parts` from the time `start` to `end` > `start` in steps whose estimated error has a `norm` <= 1.

    Dormand & Prince 1980, RK5(4)7M. The step size changes with the fifth root of the error, by a factor of 0.2 to 5
    (Hairer, Norsett & Wanner 1993, section II.4). Samples that have reached the end wait for the others. Raises
    `UserError` if a step size becomes too small, as it does with non-finite slopes.
    """
    like = first_field(parts[0])
    time = like.new_full((len(like),), start, dtype=torch.float64)
    step = torch.full_like(time, (end - start) / 20)
    first = slope(time, parts)
    while (active := time < end).any():
        final = step >= end - time
        step = torch.where(final, end - time, step)
        after, slopes = _stages(slope, time, step, parts, [first], last=7)
        error = _sum(step, _ERROR, slopes)
        size = norm(error, after).double().nan_to_num(torch.inf)
        accepted = active & (size <= 1)
        time = torch.where(accepted, torch.where(final, end, time + step), time)
        parts, first = _where(accepted, after, parts), _where(accepted, slopes[-1], first)
        step = step * (0.9 * size.clamp(min=1e-12) ** -0.2).clamp(0.2, 5)
        if (step[time < end] < 1e-9 * (end - start)).any():
            raise UserError(
                "the probability flow cannot be integrated within the tolerance, because the denoiser is not smooth or "
                "returns non-finite values: use a larger tolerance or a fixed number of steps"
            )
    return parts


def _stages(
    slope: Slope, time: Tensor, step: Tensor, parts: Parts, slopes: list[Parts], last: int
) -> tuple[Parts, list[Parts]]:
    """The parts after `step`, and the slopes of the stages up to `last`; `slopes` holds that of the first stage."""
    for stage in range(1, 7):
        change = _sum(step, _STAGES[stage], slopes)
        after = tuple(combine((1.0, a), (1.0, b)) for a, b in zip(parts, change, strict=True))
        if stage < last:
            slopes.append(slope(time + _TIMES[stage] * step, after))
    return after, slopes


def _sum(step: Tensor, weights: tuple[float, ...], slopes: list[Parts]) -> Parts:
    """step * sum of weight * slope, over the slopes that have a weight."""
    used = [(weight, parts) for weight, parts in zip(weights, slopes, strict=False) if weight]
    return tuple(combine(*((weight * step, parts[part]) for weight, parts in used)) for part in range(len(slopes[0])))


def _where(chosen: Tensor, yes: Parts, no: Parts) -> Parts:
    """For each sample, `yes` where `chosen` `[B]` is True, `no` elsewhere."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return tuple(map_fields(pick, a, b) for a, b in zip(yes, no, strict=True))
