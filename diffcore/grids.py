"""Time grids: the log-SNRs at which the network is evaluated, from the noisiest to the cleanest.

Each grid is a float64 tensor `[n]`, increasing. Sampling ends with one more step, from the last of them to
sigma = 0, so n steps are n levels.
"""

from collections.abc import Callable, Mapping

import math
import numpy
import torch
from torch import Tensor

from diffcore.schedules import Schedule


def uniform_in_time(schedule: Schedule, n: int) -> Tensor:
    """Evenly spaced in the schedule's time, from 1 to 0."""
    return schedule.log_snr(torch.linspace(1, 0, n, dtype=torch.float64))


def uniform_in_log_snr(schedule: Schedule, n: int) -> Tensor:
    """Evenly spaced in log-SNR between the schedule's ends. Lu et al. 2022 (DPM-Solver), section 3.4."""
    low, high = _ends(schedule)
    return torch.linspace(low, high, n, dtype=torch.float64)


def karras(schedule: Schedule, n: int, rho: float = 7.0) -> Tensor:
    """s_i = (s_max^(1/rho) + i / (n - 1) (s_min^(1/rho) - s_max^(1/rho)))^rho for s = sigma / alpha.

    Karras et al. 2022, eq. 5, between the schedule's ends.
    """
    low, high = _ends(schedule)
    first, last = (torch.exp(torch.tensor(-end / (2 * rho), dtype=torch.float64)) for end in (low, high))
    root = first + torch.linspace(0, 1, n, dtype=torch.float64) * (last - first)
    return -2 * rho * torch.log(root)


def tapered(schedule: Schedule, n: int, upper: float = 10.0, lower: float = 0.03) -> Tensor:
    """Even in log s = log(sigma / alpha) where data have structure, sparser beyond: density 1 / (1 + (s / a)^(1/2) + (b / s)^(1/2)).

    a = `upper`, b = `lower`.
    """
    low, high = _ends(schedule)
    dense = torch.linspace(
        -low / 2, -high / 2 - 12, 8192, dtype=torch.float64
    )  # log s, from the noisy end to far below
    density = 1 / (1 + torch.exp((dense - math.log(upper)) / 2) + torch.exp((math.log(lower) - dense) / 2))
    passed = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumulative_trapezoid(density, -dense)])
    last = min(passed[-1].item() * (n - 1) / n, numpy.interp(high / 2, -dense, passed))
    at = torch.linspace(0, last, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)
    return -2 * torch.from_numpy(numpy.interp(at, passed, dense))


def _ends(schedule: Schedule) -> tuple[float, float]:
    low, high = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    return low, high


GRIDS: Mapping[str, Callable[[Schedule, int], Tensor]] = {
    "karras": karras,
    "time": uniform_in_time,
    "log-snr": uniform_in_log_snr,
}
"""The grids by name, as `diffcore.config.Grid` lists them."""


def grid(name: str, schedule: Schedule, n: int) -> Tensor:
    """The grid of that name."""
    return GRIDS[name](schedule, n)
