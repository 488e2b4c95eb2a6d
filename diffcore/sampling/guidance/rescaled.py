"""Guidance that does not overexpose: the spread of what is predicted stays that of the model."""

from dataclasses import replace

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.states.level import Level
from diffcore.states.spaces import Mask, Product, Space
from diffcore.states.state import State, fields, map_fields, per_sample


def rescale(guided: Denoise, conditional: Denoise, space: Space, phi: float) -> Denoise:
    """output = (phi s / s_g + 1 - phi) output_g, s and s_g the standard deviations without and with guidance.

    Lin et al. 2024, section 3.4, eq. 15-16, on the network's own output, as they do. Deviations are of each sample
    and, as fields are of different kinds, of each field by itself, over the coordinates that exist. `conditional` is
    evaluated beside `guided`: one more pass of the network.
    """

    def rescaled(x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        prediction = guided(x, level, conditions, mask)
        aim: State = getattr(conditional(x, level, conditions, mask), prediction.view)
        aims, parts = fields(aim), dict(space.parts) if isinstance(space, Product) else {"": space}
        factors = iter(
            [
                phi * _ratio(deviation(parts[name], aims[name], mask), deviation(parts[name], output, mask)) + 1 - phi
                for name, output in fields(prediction.output).items()
            ]
        )
        return replace(prediction, output=map_fields(lambda f: per_sample(next(factors), f) * f, prediction.output))

    return rescaled if phi else guided


def _ratio(wanted: Tensor, found: Tensor) -> Tensor:
    return torch.where(found > 0, wanted / found, 1.0)


def deviation(space: Space, state: Tensor, mask: Mask = None) -> Tensor:
    """The standard deviation of each sample over the coordinates of its space, `[B]`.

    sqrt(|x - m 1|^2 / n), where m = `<x, 1> / <1, 1>` in the inner product of the space; n are the degrees of freedom.
    """
    ones = torch.ones_like(state)
    inner = (space.squared_norm(state + ones, mask) - space.squared_norm(state - ones, mask)) / 4
    mean = inner / space.squared_norm(ones, mask).clamp(min=1)
    squared = space.squared_norm(state - per_sample(mean, state) * ones, mask)
    return (squared / space.degrees_of_freedom(state, mask).clamp(min=1)).sqrt()
