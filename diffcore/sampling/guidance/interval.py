"""Guidance in a limited interval of noise levels."""

import math

from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.states.level import Level
from diffcore.states.spaces import Mask
from diffcore.states.state import State


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    """`guided` if `low` <= log-SNR <= `high`, `plain` otherwise; at each level only one of them is evaluated.

    Kynkäänniemi et al. 2024: guidance at high noise reduces the diversity of samples, and at low noise has no effect.
    Raises `TypeError` if the level holds tensors: as in sampling, it must be one level for the whole batch, of floats.
    """

    def chosen(x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        log_snr = level.log_snr
        if isinstance(log_snr, Tensor):
            raise TypeError("guidance in an interval takes one level for the whole batch, of floats")
        denoise = guided if low <= log_snr <= high else plain
        return denoise(x, level, conditions, mask)

    return chosen


def log_snr_interval(low: float, high: float) -> tuple[float, float]:
    """The interval of log-SNR that corresponds to [`low`, `high`] in sigma / alpha, the unit of papers with alpha = 1.

    lambda = -2 log(sigma / alpha), so the ends change places; 0 and infinity are allowed. For data of standard
    deviation d (0.5 in Karras et al.), divide the sigmas by d first.
    """

    def of(sigma: float) -> float:
        return -2 * math.log(sigma) if sigma > 0 else math.inf

    return of(high), of(low)
