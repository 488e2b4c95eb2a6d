"""Exponential moving averages of weights."""

from collections.abc import Sequence

import torch
from torch import Tensor


def power_decay(step: int, width: float) -> float:
    """Return the decay of step t, counted from 1, for an average with a power-function profile.

    beta_t = (1 - 1/t)^(gamma + 1). After T steps the weights of step t have a share proportional to t^gamma, so the
    width of the profile relative to T is constant. `width` is that relative width, the standard deviation of the
    profile divided by T, in (0, 0.28); gamma is the root of
    (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2) = width. Karras et al. 2024, eq. 1-3 and appendix C.

    The average needs no warm-up, and the length of the training need not be known.
    """
    return (1 - 1 / step) ** (gamma_of(width) + 1)


def gamma_of(width: float) -> float:
    """Return the exponent gamma of the power-function profile of relative width `width`, found by bisection."""
    low, high = 0.0, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        wider = (middle + 1) ** 0.5 / ((middle + 2) * (middle + 3) ** 0.5) > width
        low, high = (middle, high) if wider else (low, middle)
    return low


@torch.no_grad()
def update(average: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """Update all tensors in place: average <- decay * average + (1 - decay) * weights."""
    torch._foreach_lerp_(list(average), list(weights), 1 - decay)
