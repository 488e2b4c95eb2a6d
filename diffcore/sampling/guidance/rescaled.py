"""Guidance rescaled to the standard deviation of the unguided prediction, against overexposed samples."""

from dataclasses import replace

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.states.level import Levels
from diffcore.states.spaces import Mask, Space, space_of
from diffcore.states.state import State, fields, map_fields, per_sample


def rescale(guided: Denoise, conditional: Denoise, space: Space, phi: float) -> Denoise:
    """output = (phi s / s_g + 1 - phi) output_g, where s and s_g are the standard deviations of two outputs.

    s_g and output_g are those of `guided`, s that of `conditional`, the prediction with conditions and without
    guidance. Lin et al. 2024, section 3.4, eq. 15-16, applied to the network's own output, as they do. The standard
    deviation is taken for each sample and each field, over the coordinates that exist (`deviation`). Classifier-free
    guidance, autoguidance and energies of a `Denoiser` have computed s already and carry it along
    (`Prediction.unguided`); only for other guidance is `conditional` evaluated, which costs one more pass.
    """

    def rescaled(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        prediction = guided(x, level, conditions, mask)
        plain = prediction.unguided
        plain = conditional(x, level, conditions, mask) if plain is None else plain
        unguided: State = getattr(plain, prediction.view)
        targets = fields(unguided)
        ratios = [
            _ratio(deviation(part, targets[name], mask), deviation(part, output, mask))
            for name, output in fields(prediction.output).items()
            for part in [space_of(space, name)]
        ]
        factors = iter([phi * ratio + 1 - phi for ratio in ratios])
        return replace(prediction, output=map_fields(lambda f: per_sample(next(factors), f) * f, prediction.output))

    return rescaled if phi else guided


def _ratio(target: Tensor, actual: Tensor) -> Tensor:
    """target / actual, and 1 where `actual` is zero."""
    return torch.where(actual > 0, target / actual, 1.0)


def deviation(space: Space, state: Tensor, mask: Mask = None) -> Tensor:
    """The standard deviation of each sample over the coordinates of its space, `[B]`.

    sqrt(|x - m 1|^2 / n), where m = `<x, 1> / <1, 1>` in the inner product of the space and n is the number of degrees
    of freedom. It is exactly zero where it is not larger than its rounding error, as for a single coordinate.
    """
    ones = torch.ones_like(state)
    above, below = space.squared_norm(state + ones, mask), space.squared_norm(state - ones, mask)
    count = space.squared_norm(ones, mask).clamp(min=1)
    mean = (above - below) / (4 * count)
    squared = space.squared_norm(state - per_sample(mean, state) * ones, mask)
    rounding = (4 * torch.finfo(state.dtype).eps * (above + below)).square() / count
    squared = torch.where(squared > rounding, squared, 0.0)
    return (squared / space.degrees_of_freedom(state, mask).clamp(min=1)).sqrt()
