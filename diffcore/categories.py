"""Fields whose data are one of few points, and what a noisy state says of which."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffcore.levels import Level
from diffcore.state import per_sample


@dataclass(frozen=True)
class Categories:
    """K points c_k `[K][C]` of which the data of a field `[B, ..., C]` are made.

    As the view of a network's output: logits `[B, ..., K]` of what the rest of the state says of each entry.
    """

    codes: tuple[tuple[float, ...], ...]

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

    def expectation(self, logits: Tensor, x: Tensor, level: Level) -> Tensor:
        """E[x0 | x] of x = alpha x0 + sigma eps by Bayes' rule, `[B, ..., C]`.

        p(k | x) is proportional to exp(l_k) N(x; alpha c_k, sigma^2): the logits l_k say what is known from elsewhere,
        and what the entry's own noisy value says is added exactly. At low noise that decides, at high noise the logits.
        """
        alpha, sigma = (per_sample(scale, x) for scale in level)
        table = self.table(x)
        evidence = (alpha / sigma**2) * (x @ table.T) - (alpha / sigma) ** 2 * 0.5 * table.square().sum(1)
        return (logits + evidence).softmax(-1) @ table


def one_hot(shares: tuple[float, ...]) -> Categories:
    """s (e_k - p) in R^K, where p are the shares of the categories: of zero mean.

    s makes the mean variance of a coordinate, sum_k p_k (1 - p_k) / K, one (but is at most 30).
    """
    variance = sum(p * (1 - p) for p in shares) / len(shares)
    scale = max(variance, 1e-3) ** -0.5
    return Categories(
        tuple(tuple(scale * ((row == k) - share) for k, share in enumerate(shares)) for row in range(len(shares)))
    )
