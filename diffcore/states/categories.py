"""Fields whose data are one of few points, and what a noisy state says of which."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.states.level import Level
from diffcore.states.state import State, fields, per_sample


@dataclass(frozen=True)
class Categories:
    """K points c_k `[K][C]` of which the data of a field `[B, ..., C]` are made, each with its share p_k.

    As the view of a network's output: logits `[B, ..., K]` of what the rest of the state says of each entry.
    """

    codes: tuple[tuple[float, ...], ...]
    shares: tuple[float, ...]

    def table(self, like: Tensor) -> Tensor:
        """The points `[K, C]`."""
        return _placed(self.codes, like.dtype, like.device)

    def log_shares(self, like: Tensor) -> Tensor:
        """log p_k `[K]`, where no share counts as less than 1e-4: what is rare is not impossible."""
        return _placed(tuple(math.log(max(share, 1e-4)) for share in self.shares), like.dtype, like.device)

    def encode(self, categories: Tensor) -> Tensor:
        """int64 `[...]` to points `[..., C]`."""
        return _placed(self.codes, torch.get_default_dtype(), categories.device)[categories]

    def nearest(self, points: Tensor) -> Tensor:
        """`[..., C]` to the categories `[...]` of the nearest points."""
        table = self.table(points)
        return (0.5 * table.square().sum(1) - points @ table.T).argmin(-1)

    def expectation(self, x: Tensor, level: Level, logits: Tensor | float = 0.0) -> Tensor:
        """E[x0 | x] of x = alpha x0 + sigma eps by Bayes' rule, `[B, ..., C]`.

        p(k | x) is proportional to p_k exp(l_k) N(x; alpha c_k, sigma^2): the logits l_k say what is known from
        elsewhere, and what the entry's own noisy value says is added exactly. At low noise that decides, at high noise
        the logits. Without logits it is all that the entry by itself says.
        """
        alpha, sigma = level
        table = self.table(x)
        evidence = x @ table.T - per_sample(alpha, x) * (0.5 * table.square().sum(1))
        evidence = per_sample(alpha / sigma**2, x) * evidence
        return (logits + self.log_shares(x) + evidence).softmax(-1) @ table


@lru_cache(maxsize=256)
def _placed(numbers: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor on the device, copied there once: a copy at each step would make the device wait."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def one_hot(shares: tuple[float, ...], std: float = 1.0) -> Categories:
    """s (e_k - p) in R^K, where p are the shares of the categories: of zero mean.

    s makes `std`^2 the mean variance of a coordinate, s^2 sum_k p_k (1 - p_k) / K (but is at most 32 `std`). The
    smaller, the later on the way from noise to data it is decided which category an entry has.
    """
    variance = sum(p * (1 - p) for p in shares) / len(shares)
    scale = std * max(variance, 1e-3) ** -0.5
    return Categories(
        tuple(tuple(scale * ((row == k) - share) for k, share in enumerate(shares)) for row in range(len(shares))),
        shares,
    )


def by_themselves(views: Mapping[str, Any], x: State, level: Level) -> State:
    """The state with each field that `views` name as categories replaced by what its entries by themselves say.

    Noise is independent from entry to entry, so a network that sees this has lost nothing, and is spared the noise.
    """
    told = {
        name: view.expectation(value, level)
        for name, value in fields(x).items()
        if isinstance(view := views.get(name), Categories)
    }
    return TensorDict({**fields(x), **told}, batch_size=x.shape[:1]) if told else x
