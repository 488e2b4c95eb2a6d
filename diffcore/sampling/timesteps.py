"""Time grids: the log-SNRs at which the network is evaluated, from the noisiest to the cleanest.

A grid is an increasing float64 tensor `[n]`. Sampling ends with a step from the last of these levels to sigma = 0, so a
grid of n levels gives n steps.

Where samples keep noise, sampling ends at a log-SNR `last` of that noise instead: a grid of n levels then has n steps
between the schedule's noisy end and `last`, and its levels are the first n of these n + 1.

A schedule may end at zero SNR, lambda = -infinity. The first level is then exactly that end, and the others are placed
as if the schedule ended at the finite lambda = -max(10, 2 log n). There alpha is negligible for unit-variance data, and
the error of this replacement, of the order of the SNR, decreases with n like that of a second-order solver. If the
clean end is infinite, the last level is max(10, 2 log n); the final step of sampling reaches the end itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy
import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.names import require_name
from diffcore.process.schedules import Schedule, ending_at

FAR = 10.0
"""The smallest |log-SNR| that replaces an infinite one: the smaller of alpha and sigma is 0.7 % of the larger."""


def uniform_in_time(schedule: Schedule, n: int) -> Tensor:
    """Evenly spaced in the schedule's time, from 1 to 0, or to 1/n if there is no noise at time 0."""
    last = 0.0 if _ends(schedule)[1] < math.inf else 1 / n
    return schedule.log_snr(torch.linspace(1, last, n, dtype=torch.float64))


def segments(schedule: Schedule, n: int) -> Tensor:
    """The beginnings of n segments of equal length of the schedule's time: 1, 1 - 1/n, ..., 1/n."""
    return schedule.log_snr(torch.linspace(1, 1 / n, n, dtype=torch.float64))


def uniform_in_log_snr(schedule: Schedule, n: int) -> Tensor:
    """Evenly spaced in log-SNR between the schedule's ends. Lu et al. 2022 (DPM-Solver), section 3.4."""
    return _between_ends(schedule, n, lambda low, high: torch.linspace(low, high, n, dtype=torch.float64))


def karras(schedule: Schedule, n: int, rho: float = 7.0) -> Tensor:
    """s_i = (s_max^(1/rho) + i / (n - 1) (s_min^(1/rho) - s_max^(1/rho)))^rho for s = sigma / alpha.

    Karras et al. 2022, eq. 5, between the schedule's ends.
    """

    def spacing(low: float, high: float) -> Tensor:
        first, last = (math.exp(-end / (2 * rho)) for end in (low, high))
        return -2 * rho * torch.log(first + torch.linspace(0, 1, n, dtype=torch.float64) * (last - first))

    return _between_ends(schedule, n, spacing)


def tapered(
    schedule: Schedule, n: int, upper: float = 3.0, lower: float = 0.015, fall: float = 0.7, to_end: bool = False
) -> Tensor:
    """Evenly spaced in log s, s = sigma / alpha, between `lower` and `upper`, and sparser outside.

    The density of levels over log s is 1 / (1 + (s / upper)^fall + (lower / s)^fall). `upper` and `lower` are in units
    of the data's standard deviation: above `upper` the prediction of x0 hardly changes, and below `lower` little detail
    remains to be decided. The integral of the density towards s = 0 is finite, so that the step from the last level to
    the clean end can be as long as the others in this measure. The last level is never beyond the schedule's end; with
    `to_end` it is that end, which must be finite.
    """

    def spacing(low: float, high: float) -> Tensor:
        log_s = torch.linspace(-low / 2, -high / 2 - 12, 8192, dtype=torch.float64)
        above, below = torch.exp(fall * (log_s - math.log(upper))), torch.exp(fall * (math.log(lower) - log_s))
        cumulative = torch.zeros_like(log_s)
        cumulative[1:] = torch.cumulative_trapezoid(1 / (1 + above + below), -log_s)
        clean, end = cumulative[-1].item(), float(numpy.interp(high / 2, -log_s, cumulative))
        last = end if to_end else min(clean * (n - 1) / n, end)
        even = torch.linspace(0, last, n, dtype=torch.float64)
        return -2 * torch.from_numpy(numpy.interp(even, cumulative, log_s))

    return _between_ends(schedule, n, spacing)


def _ends(schedule: Schedule) -> tuple[float, float]:
    """The log-SNRs of the noisy and the clean end."""
    low, high = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    return low, high


def _between_ends(schedule: Schedule, n: int, spacing: Callable[[float, float], Tensor]) -> Tensor:
    """`spacing(low, high)` between the schedule's ends, with finite values in place of infinite ends."""
    low, high = _ends(schedule)
    far = max(FAR, 2 * math.log(n))
    points = spacing(low if low > -math.inf else -far, high if high < math.inf else far)
    if low == -math.inf:
        points[0] = low
    return points


GRIDS: Mapping[str, Callable[[Schedule, int], Tensor]] = {
    "tapered": tapered,
    "karras": karras,
    "time": uniform_in_time,
    "log-snr": uniform_in_log_snr,
    "segments": segments,
}
"""The grids by name, as in `diffcore.names.Grid`."""


def grid(name: str, schedule: Schedule, n: int, last: float | None = None) -> Tensor:
    """The grid `name` (a key of `GRIDS`) with `n` levels, float64 `[n]`, for sampling that ends at the log-SNR `last`.

    If `last` is None, sampling ends without noise. Raises `UserError` if there is no such grid, if `n` is below 1, or
    if the log-SNRs do not increase.
    """
    if n < 1:
        raise UserError(f"sampling takes at least 1 step, not {n}")
    require_name(name, GRIDS, "grid")
    points = GRIDS[name](schedule, n) if last is None else _until(name, schedule, n, last)
    check_descending(points)
    return points


def _until(name: str, schedule: Schedule, n: int, last: float) -> Tensor:
    """The first n of n + 1 levels, of which the last is the log-SNR `last`."""
    schedule = ending_at(schedule, last)
    if name == "segments":
        return segments(schedule, n)
    points = tapered(schedule, n + 1, to_end=True) if name == "tapered" else GRIDS[name](schedule, n + 1)
    return points[:-1]


def through(log_snrs: Tensor, stops: Sequence[float], start: float = -math.inf) -> Tensor:
    """The grid `log_snrs` `[n]`, changed so that it begins at the log-SNR `start` and contains the `stops`.

    Levels noisier than `start` are left out; a `start` that is noisier than the whole grid changes nothing. A level
    that follows `start` or a stop, but is nearer to it than half of the grid's own step there, is left out too. The
    result may have one level only, and is empty if `start` is infinite.
    """
    points, first = log_snrs.tolist(), log_snrs[0].item()
    for stop in sorted({start, *stops}):
        if not first < stop < math.inf:
            continue
        after = [(point, gap) for point, gap in _with_gaps(points) if point > stop]
        kept = [point for point, gap in after if point - stop >= 0.5 * gap]
        points = [point for point in points if point < stop] + [stop] + kept
    return torch.tensor([point for point in points if point >= start], dtype=log_snrs.dtype)


def _with_gaps(points: Sequence[float]) -> list[tuple[float, float]]:
    """Each level with its distance from the level before it."""
    return [(point, point - before) for before, point in zip([-math.inf, *points], points, strict=False)]


def check_descending(log_snrs: Tensor) -> None:
    """Raise `UserError` unless the noise decreases from each level to the next, that is, `log_snrs` `[n]` increase.

    The first may be -infinity. The last may not be +infinity, because sampling adds that end itself.
    """
    if log_snrs.ndim != 1 or not len(log_snrs):
        raise UserError(
            f"a time grid is a tensor [n] of at least one log-SNR, not one of shape {tuple(log_snrs.shape)}"
        )
    values = log_snrs.tolist()
    for index, value in enumerate(values):
        if math.isnan(value) or value == math.inf:
            raise UserError(
                f"log-SNR number {index + 1} of {len(values)} of the time grid is {value}; it must be finite"
            )
        if index and not value > values[index - 1]:
            raise UserError(
                f"the log-SNRs of a time grid must increase, but number {index + 1} of {len(values)}, {value:g}, "
                f"follows {values[index - 1]:g}; use fewer steps or another schedule"
            )
