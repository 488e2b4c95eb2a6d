"""Noise levels: the pair (alpha, sigma) of x_t = alpha x_0 + sigma eps."""

import math
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)


class Level(NamedTuple, Generic[Number]):
    """The scales of signal and noise: x = alpha x0 + sigma eps.

    * `alpha`, `sigma`: floats in sampling (one level for the whole batch, from float64 tables), or tensors `[B]` in
      training (each sample at its own level).
    """

    alpha: Number
    sigma: Number

    @property
    def log_snr(self) -> Any:
        """lambda = log(alpha^2 / sigma^2); infinite where alpha or sigma is zero."""
        alpha, sigma = self
        if isinstance(alpha, Tensor) or isinstance(sigma, Tensor):
            alpha, sigma = torch.as_tensor(alpha), torch.as_tensor(sigma)
            return 2 * (alpha.log() - sigma.log())
        if sigma == 0:
            return math.inf
        return 2 * math.log(alpha / sigma) if alpha > 0 else -math.inf

    @property
    def total(self) -> Any:
        """sqrt(alpha^2 + sigma^2): the standard deviation of x if x0 has unit variance."""
        if isinstance(self.alpha, Tensor) or isinstance(self.sigma, Tensor):
            return torch.hypot(torch.as_tensor(self.alpha), torch.as_tensor(self.sigma))
        return math.hypot(self.alpha, self.sigma)


CLEAN: Level[float] = Level(1.0, 0.0)
"""The last level of every trajectory: x = x0, without noise."""
