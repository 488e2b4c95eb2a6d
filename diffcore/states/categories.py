"""Categorical fields: their data are points of a small table, and Bayes' rule gives the point from a noisy value."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from diffcore.states.level import Level, Levels, is_clean, level_of
from diffcore.states.spaces import Euclidean
from diffcore.states.state import State, fields, named, per_sample


@dataclass(frozen=True)
class Categories:
    """A categorical field `[B, ..., C]`: each entry of the data is one of K points c_k.

    * `codes`: the points, K tuples of C numbers.
    * `frequencies`: p_k, the relative frequency of each point in the data.

    In the `views` of a network (`diffcore.denoising.denoiser.Denoiser`), it means that the network's output for the
    field is logits `[B, ..., K]`, as `expectation` takes them.
    """

    codes: tuple[tuple[float, ...], ...]
    frequencies: tuple[float, ...]

    @property
    def std(self) -> float:
        """The root mean square of the numbers of the data's points: their standard deviation if their mean is zero."""
        each = zip(self.codes, self.frequencies, strict=True)
        return max(sum(p * sum(number**2 for number in code) / len(code) for code, p in each), 1e-12) ** 0.5

    def table(self, like: Tensor) -> Tensor:
        """The points `[K, C]`, in the type and on the device of `like`."""
        return _placed(self.codes, like.dtype, like.device)

    def log_frequencies(self, like: Tensor) -> Tensor:
        """log max(p_k, 1e-4) `[K]`: a category that is absent from the data must not become impossible."""
        return _placed(tuple(math.log(max(p, 1e-4)) for p in self.frequencies), like.dtype, like.device)

    def encode(self, categories: Tensor) -> Tensor:
        """The points `[..., C]` of the categories, int64 `[...]`."""
        return _placed(self.codes, torch.get_default_dtype(), categories.device)[categories]

    def nearest(self, points: Tensor) -> Tensor:
        """The categories, int64 `[...]`, whose points are nearest to `points` `[..., C]`."""
        table = self.table(points)
        return (0.5 * table.square().sum(1) - points @ table.T).argmin(-1)

    def expectation(self, x: Tensor, level: Level, logits: Tensor | float = 0.0) -> Tensor:
        """E[x0 | x] of x = alpha x0 + sigma eps by Bayes' rule, `[B, ..., C]`.

        p(k | x) is proportional to p_k exp(l_k) N(x; alpha c_k, sigma^2). The likelihood of the entry's own noisy value
        is exact; the logits l_k `[B, ..., K]` carry the information of the rest of the state. At low noise the
        likelihood decides, at high noise the logits. Without logits the result uses the entry's own value alone.
        """
        alpha, sigma = level
        table = self.table(x)
        evidence = x @ table.T - per_sample(alpha, x) * (0.5 * table.square().sum(1))
        evidence = per_sample(alpha / sigma**2, x) * evidence
        return (logits + self.log_frequencies(x) + evidence).softmax(-1) @ table


@lru_cache(maxsize=256)
def _placed(numbers: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`numbers` as a tensor on the device; cached, because a copy at each step would make the device wait."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def one_hot(frequencies: tuple[float, ...], std: float = 1.0) -> Categories:
    """Categories with the centred one-hot points c_k = s (e_k - p) in R^K, where p are the `frequencies`.

    Their mean over the data is zero. s is chosen so that the mean variance of a coordinate is `std`^2, that is,
    s^2 sum_k p_k (1 - p_k) / K = `std`^2, but s is at most 32 `std`. With a smaller `std`, the category of an entry is
    decided later on the way from noise to data.
    """
    variance = sum(p * (1 - p) for p in frequencies) / len(frequencies)
    scale = std * max(variance, 1e-3) ** -0.5
    rows = range(len(frequencies))
    codes = tuple(tuple(scale * ((row == k) - p) for k, p in enumerate(frequencies)) for row in rows)
    return Categories(codes, frequencies)


@dataclass(frozen=True)
class CategoricalField(Euclidean):
    """The space of fields `[N, C]` in which each row of clean data is the code of one of `categories`."""

    categories: Categories
    labels: tuple[str, ...]
    """The names of the categories, for messages."""

    def __str__(self) -> str:
        return f"{super().__str__()} ({', '.join(self.labels)})"


def entrywise_expectations(views: Mapping[str, Any], x: State, level: Levels) -> State:
    """The state in which each field that is `Categories` in `views` is E[x0 | x] of each entry given that entry alone.

    The noise of the entries is independent, so a network that receives this instead of x loses no information. A field
    without noise stays as it is.
    """
    expectations = {
        name: view.expectation(value, own)
        for name, value in fields(x).items()
        if isinstance(view := views.get(name), Categories) and not is_clean(own := level_of(level, name))
    }
    return named({**fields(x), **expectations}) if expectations else x
