"""Exponential moving averages of weights."""

from collections.abc import Sequence

import torch
from torch import Tensor


def power_decay(step: int, width: float) -> float:
    """beta_t = (1 - 1/t)^(gamma + 1), the power-function profile: the average's relative width stays constant.

    `width` is the standard deviation of the profile divided by the training's length, in (0, 0.28); gamma is the
    root of (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2) = width. Karras et al. 2024, eq. 1-3 and
    appendix C. It needs no warm-up and no knowledge of the training's end. `step` counts from 1.
    """
    return (1 - 1 / step) ** (gamma_of(width) + 1)


def gamma_of(width: float) -> float:
    """The exponent gamma of the power-function average of relative width `width`, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        wider = (middle + 1) ** 0.5 / ((middle + 2) * (middle + 3) ** 0.5) > width
        low, high = (middle, high) if wider else (low, middle)
    return low


@torch.no_grad()
def update(average: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * weights, for all tensors at once."""
    torch._foreach_lerp_(list(average), list(weights), 1 - decay)
