"""Guidance in a limited interval of noise levels."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.states.level import Level
from diffcore.states.spaces import Mask
from diffcore.states.state import State, map_fields


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    """`guided` if `low` <= log-SNR <= `high`, `plain` otherwise; at each level only one of them is evaluated.

    Kynkäänniemi et al. 2024: guidance at high noise reduces the diversity of samples, and at low noise has no effect.
    If the samples have levels of their own, on both sides of an end, both are evaluated, and each sample gets its own.
    """

    def chosen(x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        inside = torch.as_tensor((low <= level.log_snr) & (level.log_snr <= high))
        if bool(inside.all()) or not bool(inside.any()):
            return (guided if bool(inside.any()) else plain)(x, level, conditions, mask)
        inner, outer = guided(x, level, conditions, mask), plain(x, level, conditions, mask)

        def own(inner_field: Tensor, outer_field: Tensor) -> Tensor:
            return torch.where(inside.view(-1, *[1] * (inner_field.ndim - 1)), inner_field, outer_field)

        return replace(inner, output=map_fields(own, inner.output, getattr(outer, inner.view)))

    return chosen


def log_snr_interval(low: float, high: float) -> tuple[float, float]:
    """The interval of log-SNR that corresponds to [`low`, `high`] in sigma / alpha, the unit of papers with alpha = 1.

    lambda = -2 log(sigma / alpha), so the ends change places; 0 and infinity are allowed. For data of standard
    deviation d (0.5 in Karras et al.), divide the sigmas by d first.
    """

    def of(sigma: float) -> float:
        return -2 * math.log(sigma) if sigma > 0 else math.inf

    return of(high), of(low)
