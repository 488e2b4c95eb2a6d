"""Denoisers in closed form, for data whose distribution is known.

Each is called like a trained denoiser and gives E[x0 | x] exactly, so what solvers and guidance make of it can be
compared with the truth.
"""

import torch
from torch import Tensor

from diffcore.conditions import Conditions
from diffcore.denoiser import Denoise, Prediction, from_x0
from diffcore.levels import Level
from diffcore.spaces import Mask
from diffcore.state import State, map_fields, per_sample


def gaussian(mean: float, std: float) -> Denoise:
    """Data N(mean, std^2) in every coordinate of every field.

    E[x0 | x] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x - alpha mean).
    """

    def denoise(x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        alpha, sigma = level
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)

        def posterior_mean(field: Tensor) -> Tensor:
            return mean + per_sample(gain, field) * (field - per_sample(alpha * mean, field))

        return from_x0(map_fields(posterior_mean, x), x, level)

    return denoise


def gaussian_flow(x: State, start: Level, end: Level, mean: float, std: float) -> State:
    """Where the probability-flow ODE takes `x` from `start` to `end`, for data N(mean, std^2).

    (x - alpha mean) / sqrt(alpha^2 std^2 + sigma^2) is constant along it.
    """

    def spread(level: Level) -> float | Tensor:
        return (level.alpha**2 * std**2 + level.sigma**2) ** 0.5

    return map_fields(lambda f: end.alpha * mean + spread(end) / spread(start) * (f - start.alpha * mean), x)


def mixture(centres: Tensor, std: float) -> Denoise:
    """An equal mixture of Gaussians N(c_k, std^2) with `centres` `[K, ...]`; the state is a tensor.

    With v = alpha^2 std^2 + sigma^2 and weights w_k ~ exp(-|x - alpha c_k|^2 / 2 v),
    E[x0 | x] = m + alpha std^2 / v (x - alpha m), m = sum_k w_k c_k.
    """
    flat = centres.flatten(1)

    def denoise(x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        assert isinstance(x, Tensor)
        alpha, sigma = level
        variance = torch.as_tensor(alpha**2 * std**2 + sigma**2, dtype=x.dtype).reshape(-1, 1)
        scale = torch.as_tensor(alpha, dtype=x.dtype).reshape(-1, 1)
        rows = x.flatten(1)
        # |x - alpha c|^2 without its part in x alone, which all weights share.
        logits = (scale * (rows @ flat.T) - scale**2 * flat.square().sum(1) / 2) / variance
        m = torch.softmax(logits, dim=1) @ flat
        x0 = m + scale * std**2 / variance * (rows - scale * m)
        return from_x0(x0.reshape(x.shape), x, level)

    return denoise
