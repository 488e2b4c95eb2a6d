"""The interface of schedules, and the two scalings that several of them share."""

from typing import Protocol

import torch
from torch import Tensor

from diffcore.states.level import Level, Levels


class Schedule(Protocol):
    """A noise schedule. `t` and `log_snr` are float64 tensors of any shape."""

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t), strictly decreasing on [0, 1]; it may be infinite at either end."""

    def time(self, log_snr: Tensor) -> Tensor:
        """t(lambda), the inverse of `log_snr`."""

    def level(self, log_snr: Tensor) -> Levels:
        """The scales alpha and sigma at a log-SNR, for the whole state or by field."""


def variance_preserving(log_snr: Tensor) -> Level:
    """alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda), so that alpha^2 + sigma^2 = 1.

    Both have full relative precision at both ends, unlike 1 - alpha^2.
    """
    return Level(log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())


def variance_exploding(log_snr: Tensor) -> Level:
    """alpha = 1, sigma = exp(-lambda / 2)."""
    return Level(torch.ones_like(log_snr), torch.exp(-log_snr / 2))


class VariancePreserving:
    """Base class of schedules whose `level` is `variance_preserving`."""

    def level(self, log_snr: Tensor) -> Level:
        return variance_preserving(log_snr)
