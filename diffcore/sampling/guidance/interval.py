"""Guidance in a limited interval of noise levels."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.states.level import FieldLevels, Level, Levels, is_clean
from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields, named


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    """`guided` if `low` <= log-SNR <= `high`, `plain` otherwise; at each level only one of them is evaluated.

    Kynkäänniemi et al. 2024: guidance at high noise reduces the diversity of samples, and at low noise has no effect.
    Where fields or samples have levels of their own, each gets the prediction that belongs to its own level, and both
    are evaluated if some are inside the interval and others outside; a clean field is neither.
    """

    def inside(level: Level) -> Tensor:
        log_snr = torch.as_tensor(level.log_snr)
        return (low <= log_snr) & (log_snr <= high)

    def chosen(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        levels = level.of if isinstance(level, FieldLevels) else dict.fromkeys(fields(x), level)
        noisy = {name: inside(own) for name, own in levels.items() if not is_clean(own)}
        guide = [bool(flag.any()) for flag in noisy.values()]
        if not any(guide) or all(bool(flag.all()) for flag in noisy.values()):
            return (guided if any(guide) else plain)(x, level, conditions, mask)
        outer, inner = plain(x, level, conditions, mask), guided(x, level, conditions, mask)

        def own(name: str, outside: Tensor) -> Tensor:
            flag = noisy.get(name, torch.tensor(False)).to(outside.device)
            return torch.where(
                flag.view(-1, *[1] * (outside.ndim - 1)), fields(getattr(inner, outer.view))[name], outside
            )

        output = {name: own(name, field) for name, field in fields(outer.output).items()}
        return replace(outer, output=output[""] if isinstance(x, Tensor) else named(output))

    return chosen


def log_snr_interval(low: float, high: float) -> tuple[float, float]:
    """The interval of log-SNR that corresponds to [`low`, `high`] in sigma / alpha, the unit of papers with alpha = 1.

    lambda = -2 log(sigma / alpha), so the ends change places; 0 and infinity are allowed. For data of standard
    deviation d (0.5 in Karras et al.), divide the sigmas by d first.
    """

    def of(sigma: float) -> float:
        return -2 * math.log(sigma) if sigma > 0 else math.inf

    return of(high), of(low)
