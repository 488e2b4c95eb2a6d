"""Schedules given by a table of betas, one for each step of a discrete chain."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffcore.process.schedules.schedule import VariancePreserving


@dataclass(frozen=True, eq=False)
class Betas(VariancePreserving):
    """The schedule of a discrete chain of T steps. Ho et al. 2020, eq. 2-4.

    * `betas`: `[T]`, from the cleanest step to the noisiest, each between 0 and 1.

    At t = i / (T - 1), lambda = log(abar_i / (1 - abar_i)) with abar_i = prod_{j <= i} (1 - beta_j); between these
    times it is linear. The time grid `time` with n = T levels is the chain itself. Raises `ValueError` if `betas` has
    another shape or a value outside of (0, 1).
    """

    betas: Tensor

    def __post_init__(self) -> None:
        betas = self.betas
        if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
            raise ValueError("betas must be a tensor [T] of at least two values, each above 0 and below 1")

    @cached_property
    def log_snrs(self) -> Tensor:
        """lambda at each of the T steps, `[T]`, decreasing."""
        log_abar = torch.log1p(-self.betas.double()).cumsum(0)
        return log_abar - torch.log(-torch.expm1(log_abar))

    def log_snr(self, t: Tensor) -> Tensor:
        knots = torch.arange(len(self.betas), dtype=torch.float64, device=t.device)
        return _interpolate(t.double() * (len(knots) - 1), knots, self.log_snrs.to(t.device))

    def time(self, log_snr: Tensor) -> Tensor:
        times = torch.linspace(0, 1, len(self.betas), dtype=torch.float64, device=log_snr.device)
        return _interpolate(-log_snr.double(), -self.log_snrs.to(log_snr.device), times)


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation of the points (knots, values) at `x`; both are `[n]`, and the knots increase."""
    right = torch.searchsorted(knots, x.detach().contiguous(), right=True).clamp(1, len(knots) - 1)
    weight = (x - knots[right - 1]) / (knots[right] - knots[right - 1])
    return torch.lerp(values[right - 1], values[right], weight)


def ddpm(steps: int = 1000, beta_first: float = 1e-4, beta_last: float = 0.02) -> Betas:
    """Betas that increase linearly from `beta_first` to `beta_last`. Ho et al. 2020, section 4."""
    return Betas(torch.linspace(beta_first, beta_last, steps, dtype=torch.float64))


def iddpm_cosine(steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Betas:
    """beta_i = min(1 - f_i / f_{i-1}, beta_max), f_i = cos(a_i)^2, a_i = (i / T + offset) / (1 + offset) pi / 2.

    Nichol & Dhariwal 2021, eq. 17. 1 - f_i / f_{i-1} is computed as sin(a_i - a_{i-1}) sin(a_i + a_{i-1}) / f_{i-1}.
    """
    step = math.pi / 2 / (1 + offset)
    before = (torch.arange(steps, dtype=torch.float64) / steps + offset) * step
    rise = math.sin(step / steps) * torch.sin(2 * before + step / steps)
    return Betas((rise / before.cos() ** 2).clamp(max=beta_max))
