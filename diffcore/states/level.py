"""Noise levels: the pair (alpha, sigma) of x_t = alpha x_0 + sigma eps, for a whole state or for each of its fields."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

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

    def map(self, change: Callable[[Any], Any]) -> "Level[Any]":  # type: ignore[misc]
        """The level of `change(alpha)` and `change(sigma)`."""
        return Level(change(self.alpha), change(self.sigma))


CLEAN: Level[float] = Level(1.0, 0.0)
"""The last level of every trajectory: x = x0, without noise."""


GIVEN_LOG_SNR = 20.0
"""A field of an example at this log-SNR or above counts as given in training: sigma is at most alpha / 22,000."""


@dataclass(frozen=True)
class FieldLevels:
    """A level for each field of a state: field f is x_f = alpha_f x0_f + sigma_f eps_f.

    * `of`: the level of each field, by its name. A field at level `CLEAN` is given: it is known without noise.

    `alpha`, `sigma`, `log_snr` and `total` are those of the levels, by the name of the field. They are weights of
    `diffcore.states.state.combine`.
    """

    of: Mapping[str, Level]

    @property
    def alpha(self) -> dict[str, Any]:
        """alpha of each field."""
        return {name: level.alpha for name, level in self.of.items()}

    @property
    def sigma(self) -> dict[str, Any]:
        """sigma of each field."""
        return {name: level.sigma for name, level in self.of.items()}

    @property
    def log_snr(self) -> dict[str, Any]:
        """lambda of each field."""
        return {name: level.log_snr for name, level in self.of.items()}

    @property
    def total(self) -> dict[str, Any]:
        """sqrt(alpha^2 + sigma^2) of each field."""
        return {name: level.total for name, level in self.of.items()}

    def map(self, change: Callable[[Any], Any]) -> "FieldLevels":
        """The levels with `change` applied to alpha and sigma of each."""
        return FieldLevels({name: level.map(change) for name, level in self.of.items()})


Levels: TypeAlias = Level | FieldLevels
"""One level for the whole state, or one for each of its fields."""


def level_of(level: Levels, name: str) -> Level:
    """The level of the field `name`."""
    return level.of[name] if isinstance(level, FieldLevels) else level


def shared(level: Levels) -> Levels:
    """The one level of all fields if their levels are equal, which is the simpler form of the same; else `level`."""
    if not isinstance(level, FieldLevels):
        return level
    first, *others = level.of.values()
    return first if all(equal(first, other) for other in others) else level


def equal(first: Level, second: Level) -> bool:
    """Whether two levels are known to be the same: numbers are compared, and tensors `[B]` must be the same object."""

    def same(a: Any, b: Any) -> bool:
        per_sample = any(isinstance(number, Tensor) and number.ndim for number in (a, b))
        return a is b or (not per_sample and bool(a == b))

    return same(first.alpha, second.alpha) and same(first.sigma, second.sigma)


def unstacked(levels: Levels) -> list[Levels]:
    """The n levels of a level whose scales are tensors `[n]`; the scales of each are tensors without axes."""
    first = next(iter(levels.of.values())) if isinstance(levels, FieldLevels) else levels
    return [_at(levels, index) for index in range(len(first.alpha))]


def _at(levels: Levels, index: int) -> Levels:
    return levels.map(lambda scale: scale[index])


def by_field(function: Callable[..., Any], *levels: Levels) -> Any:
    """`function` of the levels; if some are by field, a dictionary of its values for the levels of each field."""
    names = next((level.of for level in levels if isinstance(level, FieldLevels)), None)
    if names is None:
        return function(*levels)
    return {name: function(*(level_of(level, name) for level in levels)) for name in names}


def is_clean(level: Levels) -> bool:
    """Whether no field has noise. Levels of tensors `[B]` count as noisy."""
    sigmas = level.sigma.values() if isinstance(level, FieldLevels) else [level.sigma]
    return all(not isinstance(sigma, Tensor) and sigma == 0 for sigma in sigmas)
