"""Guidance in a limited interval of noise levels."""

import math
from dataclasses import replace

from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.states.level import FieldLevels, Level, Levels, is_clean
from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields, named


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    """`guided` if `low` <= log-SNR <= `high`, `plain` otherwise; at each level only one of them is evaluated.

    Kynkäänniemi et al. 2024: guidance at high noise reduces the diversity of samples, and at low noise has no effect.
    Where fields have levels of their own, each field gets the prediction that belongs to its own level, and both are
    evaluated if some fields are inside the interval and others outside; a clean field is neither.

    Raises `TypeError` if the level holds tensors: as in sampling, it must be one level for the whole batch, of floats.
    """

    def inside(level: Level) -> bool:
        if isinstance(level.log_snr, Tensor):
            raise TypeError("guidance in an interval takes one level for the whole batch, of floats")
        return bool(low <= level.log_snr <= high)

    def chosen(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        levels = level.of if isinstance(level, FieldLevels) else {"": level}
        noisy = {name: inside(own) for name, own in levels.items() if not is_clean(own)}
        if all(noisy.values()) or not any(noisy.values()):
            return (guided if any(noisy.values()) else plain)(x, level, conditions, mask)
        outer = plain(x, level, conditions, mask)
        inner = guided(x, level, conditions, mask)
        own = fields(getattr(inner, outer.view))
        return replace(
            outer, output=named({name: own[name] if noisy.get(name) else f for name, f in fields(outer.output).items()})
        )

    return chosen


def log_snr_interval(low: float, high: float) -> tuple[float, float]:
    """The interval of log-SNR that corresponds to [`low`, `high`] in sigma / alpha, the unit of papers with alpha = 1.

    lambda = -2 log(sigma / alpha), so the ends change places; 0 and infinity are allowed. For data of standard
    deviation d (0.5 in Karras et al.), divide the sigmas by d first.
    """

    def of(sigma: float) -> float:
        return -2 * math.log(sigma) if sigma > 0 else math.inf

    return of(high), of(low)
