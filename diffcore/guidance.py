"""Guidance: decorators that take a denoiser and return a denoiser.

What comes out is called like what went in, so guidances nest and every solver takes every one of them.
"""

from collections.abc import Sequence

import torch

from diffcore.conditions import Condition, Conditions, nulls
from diffcore.denoiser import Denoise, Prediction
from diffcore.levels import Level
from diffcore.spaces import Mask
from diffcore.state import State, concatenate, first_field


def classifier_free(denoise: Denoise, conditions: Sequence[Condition], weight: float) -> Denoise:
    """Eps = eps_u + w (eps_c - eps_u), and x0 likewise. Ho & Salimans 2022, with w = 1 + their w.

    w = 0 ignores the conditions, w = 1 is the conditional model itself (the network runs once), w > 1 sharpens.
    For other w both passes go through the network as one batch. The two views stay consistent, as both are
    affine in the same prediction.
    """

    def guided(x: State, level: Level, given: Conditions | None = None, mask: Mask = None) -> Prediction:
        if weight == 1 or given is None or not given:
            return denoise(x, level, given, mask)
        batch = x.shape[0]
        absent = nulls(conditions, batch, first_field(x).device)
        if weight == 0:
            return denoise(x, level, absent, mask)
        both = {name: torch.cat([value, absent[name]]) for name, value in given.items()}
        double_mask = None if mask is None else torch.cat([mask, mask])
        joint = denoise(concatenate([x, x]), level, both, double_mask)
        x0, eps = (absent_view + weight * (given_view - absent_view) for given_view, absent_view in (
            (joint.x0[:batch], joint.x0[batch:]), (joint.eps[:batch], joint.eps[batch:])))  # fmt: skip
        return Prediction(x0, eps, level)

    return guided
