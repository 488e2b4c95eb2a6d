"""Autoguidance: extrapolation from a weaker version of the network."""

from dataclasses import replace

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.states.level import Levels
from diffcore.states.spaces import Mask
from diffcore.states.state import State, extrapolate


def autoguidance(denoise: Denoise, weak: Denoise, weight: float) -> Denoise:
    """D_weak + w (D - D_weak), where `weak` makes the same errors as `denoise`, but larger ones.

    Karras et al. 2024 (autoguidance), section 3, eq. 4: `weak` is a smaller network, or one trained for less time, on
    the same data and conditions. w = 1 returns `denoise` itself. The variance is that of `denoise`.
    """

    def guided(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        strong = denoise(x, level, conditions, mask)
        start: State = getattr(weak(x, level, conditions, mask), strong.view)
        return replace(strong, output=extrapolate(start, strong.output, weight))

    return denoise if weight == 1 else guided
