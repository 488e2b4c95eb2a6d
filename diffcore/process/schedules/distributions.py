"""Schedules for which lambda(t) has a given distribution if t is uniform.

lambda(t) is the (1 - t)-quantile of a symmetric distribution, truncated at two ends. Each tail is measured from its own
end, so that neither loses precision.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcore.process.schedules.schedule import VariancePreserving, variance_exploding
from diffcore.states.level import Level


class _Quantiles:
    """lambda(t) of a truncated symmetric distribution, which subclasses define by the three methods below."""

    def _shape(self) -> tuple[float, float, float, float]:
        """Centre and scale of the distribution, and the lower and the upper end of lambda, around the centre."""
        raise NotImplementedError

    def _tail(self, z: Tensor) -> Tensor:
        """P(Z > z) of the distribution with centre 0 and scale 1, for z >= 0."""
        raise NotImplementedError

    def _quantile(self, tail: Tensor) -> Tensor:
        """The inverse of `_tail`, for tails up to 1/2."""
        raise NotImplementedError

    def _cut(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tails beyond the lower and the upper end, and the mass between them."""
        centre, scale, low, high = self._shape()
        ends = torch.tensor([centre - low, high - centre], dtype=torch.float64, device=like.device) / scale
        below, above = self._tail(ends)
        return below, above, 1 - below - above

    def log_snr(self, t: Tensor) -> Tensor:
        centre, scale, _, _ = self._shape()
        below, above, mass = self._cut(t)
        t = t.double()
        upper, lower = above + t * mass, below + (1 - t) * mass
        distance = self._quantile(torch.minimum(upper, lower))
        return centre + scale * torch.where(upper < lower, distance, -distance)

    def time(self, log_snr: Tensor) -> Tensor:
        centre, scale, _, _ = self._shape()
        below, above, mass = self._cut(log_snr)
        z = (log_snr.double() - centre) / scale
        tail = self._tail(z.abs())
        return torch.where(z > 0, (tail - above) / mass, 1 - (tail - below) / mass)


@dataclass(frozen=True)
class Laplace(_Quantiles, VariancePreserving):
    """lambda ~ Laplace(mu, b), truncated to [log_snr_min, log_snr_max]. Hang & Gu 2024, table 1.

    Without truncation, lambda(t) = mu - b sgn(1/2 - t) log(1 - 2 |t - 1/2|), which decreases with t. `mu` must lie
    between `log_snr_min` and `log_snr_max`.
    """

    mu: float = 0.0
    b: float = 0.5
    log_snr_min: float = -10.0
    log_snr_max: float = 10.0

    def _shape(self) -> tuple[float, float, float, float]:
        return self.mu, self.b, self.log_snr_min, self.log_snr_max

    def _tail(self, z: Tensor) -> Tensor:
        return torch.exp(-z) / 2

    def _quantile(self, tail: Tensor) -> Tensor:
        return -torch.log(2 * tail)


@dataclass(frozen=True)
class LogNormal(_Quantiles):
    """alpha = 1 and ln sigma ~ N(p_mean, p_std^2), truncated to [sigma_min, sigma_max].

    The training distribution of Karras et al. 2022 (EDM), table 1. sigma increases with t; exp(p_mean) must lie
    between `sigma_min` and `sigma_max`.
    """

    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def _shape(self) -> tuple[float, float, float, float]:
        return -2 * self.p_mean, 2 * self.p_std, -2 * math.log(self.sigma_max), -2 * math.log(self.sigma_min)

    def _tail(self, z: Tensor) -> Tensor:
        return torch.special.erfc(z / math.sqrt(2)) / 2  # torch.special.ndtr(-z) is 0 for z above 9

    def _quantile(self, tail: Tensor) -> Tensor:
        return -torch.special.ndtri(tail)

    def level(self, log_snr: Tensor) -> Level:
        return variance_exploding(log_snr)
