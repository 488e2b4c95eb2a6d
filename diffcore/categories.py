"""Fields whose data are one of few points, and what a noisy state says of which."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.levels import Level
from diffcore.state import State, fields, per_sample


@dataclass(frozen=True)
class Categories:
    """K points c_k `[K][C]` of which the data of a field `[B, ..., C]` are made, each with its share p_k.

    As the view of a network's output: logits `[B, ..., K]` of what the rest of the state says of each entry.
    """

    codes: tuple[tuple[float, ...], ...]
    shares: tuple[float, ...]

    def table(self, like: Tensor) -> Tensor:
        """The points `[K, C]`."""
        return torch.tensor(self.codes, dtype=like.dtype, device=like.device)

    def encode(self, categories: Tensor) -> Tensor:
        """int64 `[...]` to points `[..., C]`."""
        return torch.tensor(self.codes, device=categories.device)[categories]

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
        alpha, sigma = (per_sample(scale, x) for scale in level)
        table = self.table(x)
        evidence = (alpha / sigma**2) * (x @ table.T) - (alpha / sigma) ** 2 * 0.5 * table.square().sum(1)
        prior = torch.tensor(self.shares, dtype=x.dtype, device=x.device).clamp(min=1e-4).log()
        return (logits + prior + evidence).softmax(-1) @ table


def one_hot(shares: tuple[float, ...]) -> Categories:
    """s (e_k - p) in R^K, where p are the shares of the categories: of zero mean.

    s makes the mean variance of a coordinate, sum_k p_k (1 - p_k) / K, one (but is at most 30).
    """
    variance = sum(p * (1 - p) for p in shares) / len(shares)
    scale = max(variance, 1e-3) ** -0.5
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
