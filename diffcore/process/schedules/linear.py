"""Schedules with beta(t) linear in time: the variance-preserving and the sub-variance-preserving SDE."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffcore.process.schedules.schedule import VariancePreserving
from diffcore.states.level import Level


@dataclass(frozen=True)
class LinearRate:
    """beta(s) = beta_0 + s (beta_1 - beta_0) at s = epsilon + (1 - epsilon) t. Song et al. 2021, eq. 32.

    The integral of beta is B(s) = beta_0 s + (beta_1 - beta_0) s^2 / 2. s >= `epsilon`, so that lambda is finite.
    """

    beta_0: float = 0.1
    beta_1: float = 20.0
    epsilon: float = 1e-3

    def integral(self, t: Tensor) -> Tensor:
        """B(s) at the time t."""
        s = self.epsilon + (1 - self.epsilon) * t.double()
        return self.beta_0 * s + (self.beta_1 - self.beta_0) * s**2 / 2

    def time_of(self, integral: Tensor) -> Tensor:
        """The time t at which B(s) is `integral`."""
        slope = self.beta_1 - self.beta_0
        # The root of slope s^2 / 2 + beta_0 s = B, in the form without cancellation.
        s = 2 * integral / (self.beta_0 + torch.sqrt(self.beta_0**2 + 2 * slope * integral))
        return (s - self.epsilon) / (1 - self.epsilon)


@dataclass(frozen=True)
class LinearBeta(LinearRate, VariancePreserving):
    """The variance-preserving SDE: alpha = exp(-B / 2), sigma^2 = 1 - exp(-B), lambda = -log(exp(B) - 1).

    Song et al. 2021, eq. 32-33. For beta_0 = 0.1 and beta_1 = 20 it is the continuous limit of the linear betas of Ho
    et al. 2020.
    """

    def log_snr(self, t: Tensor) -> Tensor:
        integral = self.integral(t)
        # log(expm1(B)) = B + log(-expm1(-B)) does not overflow.
        return -(integral + torch.log(-torch.expm1(-integral)))

    def time(self, log_snr: Tensor) -> Tensor:
        log_snr = log_snr.double()
        return self.time_of(torch.logaddexp(-log_snr, torch.zeros_like(log_snr)))


@dataclass(frozen=True)
class SubVariancePreserving(LinearRate):
    """The sub-VP SDE: alpha = exp(-B / 2), sigma = 1 - exp(-B). Song et al. 2021, eq. 29.

    sigma / alpha = exp(B / 2) - exp(-B / 2), so lambda = -2 log(2 sinh(B / 2)), and with r = alpha / sigma

        alpha = 2 r / (1 + sqrt(1 + 4 r^2)), sigma = 2 / (1 + sqrt(1 + 4 r^2)),

    the root of alpha = r (1 - alpha^2) without cancellation.
    """

    def log_snr(self, t: Tensor) -> Tensor:
        integral = self.integral(t)
        return -(integral + 2 * torch.log(-torch.expm1(-integral)))

    def time(self, log_snr: Tensor) -> Tensor:
        return self.time_of(2 * torch.asinh(torch.exp(-log_snr.double() / 2) / 2))

    def level(self, log_snr: Tensor) -> Level:
        ratio, inverse = torch.exp(log_snr / 2), torch.exp(-log_snr / 2)
        # alpha is computed from 1 / r, which avoids 0 * infinity at the ends.
        alpha = 2 / (inverse + torch.hypot(inverse, torch.full_like(inverse, 2)))
        return Level(alpha, 2 / (1 + torch.hypot(2 * ratio, torch.ones_like(ratio))))
