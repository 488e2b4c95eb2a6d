"""Guidance in a limited interval of noise."""

import math

from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.states.level import Level
from diffcore.states.spaces import Mask
from diffcore.states.state import State


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    """`guided` where `low` <= log-SNR <= `high`, `plain` elsewhere; each level runs one of them alone.

    Kynkäänniemi et al. 2024: guidance harms at high noise, where it costs variety, and does nothing at low noise.
    For levels of floats, as sampling has them; raises `TypeError` for others.
    """

    def chosen(x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        log_snr = level.log_snr
        if isinstance(log_snr, Tensor):
            raise TypeError("guidance in an interval takes one level for the whole batch, of floats")
        denoise = guided if low <= log_snr <= high else plain
        return denoise(x, level, conditions, mask)

    return chosen


def log_snr_interval(low: float, high: float) -> tuple[float, float]:
    """The interval of log-SNR of an interval of sigma / alpha, as papers with alpha = 1 give it.

    lambda = -2 log(sigma / alpha), so the ends change places; 0 and infinity are allowed. Sigmas of data with the
    standard deviation d (0.5 in Karras et al.) are to be divided by d first.
    """

    def of(sigma: float) -> float:
        return -2 * math.log(sigma) if sigma > 0 else math.inf

    return of(high), of(low)
