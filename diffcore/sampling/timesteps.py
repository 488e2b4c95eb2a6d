"""Time grids: the log-SNRs at which the network is evaluated, from the noisiest to the cleanest.

Each grid is a float64 tensor `[n]`, increasing. Sampling ends with one more step, from the last of them to
sigma = 0, so n steps are n levels.

A schedule may end at zero SNR, lambda = -infinity. The first level is then exactly that end, and the others lie as if
the schedule ended at a finite one, lambda = -max(10, 2 log n). There alpha is negligible for unit-variance data, and
what is cut off, of the order of the SNR, falls with n as the error of a second-order solver does. To an infinite clean
end sampling goes by itself; the last level is then max(10, 2 log n).
"""

import math
from collections.abc import Callable, Mapping

import numpy
import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.process.schedules import Schedule

FAR = 10.0
"""The least log-SNR that stands for an infinite one: the smaller of alpha and sigma is 0.7 % of the larger."""


def uniform_in_time(schedule: Schedule, n: int) -> Tensor:
    """Evenly spaced in the schedule's time, from 1 to 0; to 1/n where time 0 has no noise at all."""
    last = 0.0 if _ends(schedule)[1] < math.inf else 1 / n
    return schedule.log_snr(torch.linspace(1, last, n, dtype=torch.float64))


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


def tapered(schedule: Schedule, n: int, upper: float = 3.0, lower: float = 0.015, fall: float = 0.7) -> Tensor:
    """Even in log s, s = sigma / alpha, where data have structure, and sparser beyond.

    The density of levels over log s is 1 / (1 + (s / upper)^fall + (lower / s)^fall): above `upper`, in units of the
    data's deviation, x0 hardly changes any more, and below `lower` there is little left to find. As the density has a
    finite integral towards s = 0, the step from the last level to the clean end is as long as the others in this
    measure; the last level is never beyond the schedule's end.
    """

    def spacing(low: float, high: float) -> Tensor:
        log_s = torch.linspace(-low / 2, -high / 2 - 12, 8192, dtype=torch.float64)
        above, below = torch.exp(fall * (log_s - math.log(upper))), torch.exp(fall * (math.log(lower) - log_s))
        passed = torch.zeros_like(log_s)
        passed[1:] = torch.cumulative_trapezoid(1 / (1 + above + below), -log_s)
        clean, end = passed[-1].item(), float(numpy.interp(high / 2, -log_s, passed))
        at = torch.linspace(0, min(clean * (n - 1) / n, end), n, dtype=torch.float64)
        return -2 * torch.from_numpy(numpy.interp(at, passed, log_s))

    return _between_ends(schedule, n, spacing)


def _ends(schedule: Schedule) -> tuple[float, float]:
    low, high = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    return low, high


def _between_ends(schedule: Schedule, n: int, spacing: Callable[[float, float], Tensor]) -> Tensor:
    """`spacing` between the schedule's ends, or between finite ones in place of those that are infinite."""
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
}
"""The grids by name, as `diffcore.runs.settings.Grid` lists them."""


def grid(name: str, schedule: Schedule, n: int) -> Tensor:
    """The grid of that name with `n` levels. Raises `UserError` where `n` is below 1 or the schedule does not fall."""
    if n < 1:
        raise UserError(f"sampling takes at least 1 step, not {n}")
    points = GRIDS[name](schedule, n)
    check_descending(points)
    return points


def check_descending(log_snrs: Tensor) -> None:
    """Raise `UserError` unless the noise falls from each of the levels `log_snrs` `[n]` to the next.

    The first may be -infinity. The last may not be +infinity: sampling adds that end itself.
    """
    if log_snrs.ndim != 1 or not len(log_snrs):
        raise UserError(f"a grid is a list of at least one log-SNR, not a tensor of shape {tuple(log_snrs.shape)}")
    values = log_snrs.tolist()
    for index, value in enumerate(values):
        if math.isnan(value) or value == math.inf:
            raise UserError(f"log-SNR number {index + 1} of {len(values)} of the grid is {value}; it must be a number")
        if index and not value > values[index - 1]:
            raise UserError(
                f"log-SNRs of a grid must rise from each to the next, but number {index + 1} of {len(values)}, "
                f"{value:g}, follows {values[index - 1]:g}; take fewer steps or another schedule"
            )
