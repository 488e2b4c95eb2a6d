"""Noise schedules: log-SNR of a time, its inverse, and the scales alpha, sigma of a log-SNR.

Time runs from 0 (data) to 1 (noise). A schedule does two separable things: `log_snr` says how much of the
time is spent at which noise level, `level` says how the state is scaled there. All of it is computed in
float64; lambda stands for the log-SNR, log(alpha^2 / sigma^2).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffcore.levels import Level


class Schedule(Protocol):
    """What the core asks of a schedule. `t` and `log_snr` are float64 tensors of any shape."""

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t), strictly decreasing on [0, 1]."""

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""

    def level(self, log_snr: Tensor) -> Level:
        """The scales alpha and sigma at a log-SNR."""


def variance_preserving(log_snr: Tensor) -> Level:
    """alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda), so that alpha^2 + sigma^2 = 1.

    Both keep full relative precision at both ends, where 1 - alpha^2 would lose it.
    """
    return Level(log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())


@dataclass(frozen=True)
class Cosine:
    """lambda(t) = shift - 2 log tan(angle), the angle running evenly between those where lambda meets its bounds.

    Without shift alpha = cos(angle), sigma = sin(angle): Nichol & Dhariwal 2021, eq. 17, without their offset. A
    negative shift spends more of the time at high noise, where the layout of a sample is decided (Hoogeboom et al.
    2023, simple diffusion, eq. 7).
    """

    log_snr_min: float = -10.0
    log_snr_max: float = 10.0
    shift: float = 0.0

    def _angles(self) -> tuple[float, float]:
        first, last = (math.atan(math.exp((self.shift - end) / 2)) for end in (self.log_snr_max, self.log_snr_min))
        return first, last

    def log_snr(self, t: Tensor) -> Tensor:
        first, last = self._angles()
        return self.shift - 2 * torch.log(torch.tan(first + t.double() * (last - first)))

    def time(self, log_snr: Tensor) -> Tensor:
        first, last = self._angles()
        return (torch.atan(torch.exp((self.shift - log_snr.double()) / 2)) - first) / (last - first)

    def level(self, log_snr: Tensor) -> Level:
        return variance_preserving(log_snr)


@dataclass(frozen=True)
class LinearBeta:
    """The variance-preserving SDE with beta(t) = beta_0 + t (beta_1 - beta_0).

    alpha(t) = exp(-B(t) / 2), B(t) = beta_0 t + (beta_1 - beta_0) t^2 / 2, and so
    lambda(t) = -log(exp(B(t)) - 1). Song et al. 2021, eq. 32-33; the continuous limit of the linear
    betas of Ho et al. 2020 for beta_0 = 0.1, beta_1 = 20. Time starts at `epsilon`, where lambda is finite.
    """

    beta_0: float = 0.1
    beta_1: float = 20.0
    epsilon: float = 1e-3

    def log_snr(self, t: Tensor) -> Tensor:
        t = self.epsilon + (1 - self.epsilon) * t.double()
        integral = self.beta_0 * t + (self.beta_1 - self.beta_0) * t**2 / 2
        # log(expm1(B)) = B + log1p(-exp(-B)) does not overflow.
        return -(integral + torch.log(-torch.expm1(-integral)))

    def time(self, log_snr: Tensor) -> Tensor:
        integral = torch.nn.functional.softplus(-log_snr.double())
        slope = self.beta_1 - self.beta_0
        # The root of slope t^2 / 2 + beta_0 t = B in the form that does not cancel.
        t = 2 * integral / (self.beta_0 + torch.sqrt(self.beta_0**2 + 2 * slope * integral))
        return (t - self.epsilon) / (1 - self.epsilon)

    def level(self, log_snr: Tensor) -> Level:
        return variance_preserving(log_snr)


@dataclass(frozen=True)
class Geometric:
    """The variance-exploding ladder: alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    Song & Ermon 2019 in continuous time (Song et al. 2021, eq. 30). lambda(t) = -2 log sigma(t).
    """

    sigma_min: float = 0.005
    sigma_max: float = 150.0

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_min) + t.double() * math.log(self.sigma_max / self.sigma_min))

    def time(self, log_snr: Tensor) -> Tensor:
        return (-log_snr.double() / 2 - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)

    def level(self, log_snr: Tensor) -> Level:
        return Level(torch.ones_like(log_snr), torch.exp(-log_snr / 2))


@dataclass(frozen=True)
class Rectified:
    """Straight lines from data to noise: alpha = 1 - t', sigma = t', lambda(t) = 2 log((1 - t') / t').

    Liu et al. 2023 (rectified flow), Lipman et al. 2023 (optimal-transport path). t' = e + t (1 - 2 e)
    keeps both ends finite.
    """

    epsilon: float = 1e-3

    def log_snr(self, t: Tensor) -> Tensor:
        t = self.epsilon + t.double() * (1 - 2 * self.epsilon)
        return 2 * (torch.log1p(-t) - torch.log(t))

    def time(self, log_snr: Tensor) -> Tensor:
        return (torch.sigmoid(-log_snr.double() / 2) - self.epsilon) / (1 - 2 * self.epsilon)

    def level(self, log_snr: Tensor) -> Level:
        return Level(torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2))
