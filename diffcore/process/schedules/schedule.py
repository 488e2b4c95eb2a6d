"""What a schedule is, and the two scalings that several of them share."""

from typing import Protocol

import torch
from torch import Tensor

from diffcore.states.level import Level


class Schedule(Protocol):
    """What the core asks of a schedule. `t` and `log_snr` are float64 tensors of any shape."""

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t), strictly decreasing on [0, 1]; an end may be infinite."""

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""

    def level(self, log_snr: Tensor) -> Level:
        """The scales alpha and sigma at a log-SNR."""


def variance_preserving(log_snr: Tensor) -> Level:
    """alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda), so that alpha^2 + sigma^2 = 1.

    Both keep full relative precision at both ends, where 1 - alpha^2 would lose it.
    """
    return Level(log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())


def variance_exploding(log_snr: Tensor) -> Level:
    """alpha = 1, sigma = exp(-lambda / 2)."""
    return Level(torch.ones_like(log_snr), torch.exp(-log_snr / 2))


class VariancePreserving:
    """Base of the schedules whose scales are `variance_preserving`."""

    def level(self, log_snr: Tensor) -> Level:
        return variance_preserving(log_snr)
