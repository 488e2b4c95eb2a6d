"""Guidance: decorators that take a denoiser and return a denoiser.

What comes out is called like what went in, so guidances nest and every solver takes every one of them.
"""

from collections.abc import Sequence

import torch

from diffcore.conditions import Condition, Conditions, nulls
from diffcore.denoiser import Denoise, Prediction
from diffcore.levels import Level
from diffcore.spaces import Mask
from diffcore.state import State, concatenate, extrapolate, first_field


def classifier_free(denoise: Denoise, known: Sequence[Condition], weight: float) -> Denoise:
    """Extrapolate from the unconditional prediction: eps = eps_u + w (eps_c - eps_u), and x0 likewise.

    Ho & Salimans 2022, with w = 1 + their w. `known` are all conditions of the model. w = 0 ignores what is given,
    w = 1 is the conditional model itself (either runs the network once), w > 1 sharpens. For other w both passes go
    through the network as one batch. All views are affine in the output, so mixing outputs mixes them.
    """

    def guided(x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        if weight == 1 or not conditions:
            return denoise(x, level, conditions, mask)
        batch = x.shape[0]
        absent = nulls(known, batch, first_field(x).device)
        if weight == 0:
            return denoise(x, level, absent, mask)
        both = {name: torch.cat([value, absent[name]]) for name, value in conditions.items()}
        double_mask = None if mask is None else torch.cat([mask, mask])
        joint = denoise(concatenate([x, x]), level, both, double_mask)
        output = extrapolate(joint.output[batch:], joint.output[:batch], weight)
        return Prediction(x, level, output, joint.view, _first(joint.variance, batch))

    return guided


def _first(variance: State | None, batch: int) -> State | None:
    return None if variance is None else variance[:batch]
