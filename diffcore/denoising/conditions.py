"""Conditions: what a sample is asked to be. Each is named and typed and has its own null value.

A batch of conditions is a dictionary of tensors `[B]`. The null value stands for "not given": it is what a
condition is replaced by when it is dropped in training, and what guidance compares with.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from diffcore.denoising.ranges import read_range
from diffcore.errors import UserError
from diffcore.states.noise import uniform

Conditions = dict[str, Tensor]


class Condition(Protocol):
    """What the core asks of a kind of condition. Values are tensors `[B]`."""

    @property
    def name(self) -> str:
        """What the condition is called."""

    @property
    def outputs(self) -> int:
        """How many numbers a classifier gives for this condition."""

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """`[B]` of null values."""

    def given(self, value: Tensor) -> Tensor:
        """Which values of `[B]` are not null, `[B]` bool."""

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """The values `[B]` of the samples `indices` of `seed`, as a user asks for them. Raises `UserError`."""

    def warning(self, value: Tensor) -> str | None:
        """Why values that are asked for may not be reached, in words, or None."""

    def examples(self, batch: int) -> Tensor:
        """`[B]` values that show what there is."""

    def caption(self, value: Tensor) -> str:
        """A value in words."""

    def log_likelihood(self, output: Tensor, value: Tensor) -> Tensor:
        """log p(value) in nats, `[B]`, where a classifier says `output` `[B, outputs]`; 0 where the value is null."""

    def best_constant(self, values: Tensor) -> Tensor:
        """`[outputs]`: what a classifier that sees nothing says at best of `values`; anything where none is given."""

    def measures(self, output: Tensor, value: Tensor) -> dict[str, Tensor]:
        """Figures of a classifier beside the likelihood, each `[n]`, of the values that are given."""


@dataclass(frozen=True)
class ClassCondition:
    """One of K classes, an int64 tensor `[B]`; the null value is K.

    A classifier's output for it is K logits.
    """

    name: str
    classes: tuple[str, ...]

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return torch.full((batch,), len(self.classes), dtype=torch.int64, device=device)

    def given(self, value: Tensor) -> Tensor:
        return value < len(self.classes)

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """A class for all: by its name or, where no class is called so, its index."""
        if text in self.classes:
            return torch.full((len(indices),), self.classes.index(text))
        if text.isdecimal() and int(text) < len(self.classes):
            return torch.full((len(indices),), int(text))
        shown = ", ".join(self.classes[:20]) + (", …" if len(self.classes) > 20 else "")
        raise UserError(f"unknown {self.name} {text!r}; this model knows: {shown}")

    def warning(self, value: Tensor) -> str | None:
        return None

    def examples(self, batch: int) -> Tensor:
        """The classes in turn."""
        return torch.arange(batch) % len(self.classes)

    def caption(self, value: Tensor) -> str:
        return self.classes[int(value)] if int(value) < len(self.classes) else "any"

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def log_likelihood(self, output: Tensor, value: Tensor) -> Tensor:
        known = self.given(value)
        chosen = output.log_softmax(1).gather(1, value.where(known, 0)[:, None])[:, 0]
        return chosen.where(known, 0.0)

    def best_constant(self, values: Tensor) -> Tensor:
        """The shares of the classes."""
        counts = torch.bincount(values[self.given(values)], minlength=len(self.classes)).double()
        return (counts / counts.sum().clamp(min=1)).clamp(min=1e-12).log().float()

    def measures(self, output: Tensor, value: Tensor) -> dict[str, Tensor]:
        known = self.given(value)
        return {"accuracy": (output.argmax(1) == value)[known].double()}


@dataclass(frozen=True)
class ScalarCondition:
    """A number, a float tensor `[B]`; the null value is nan.

    `mean`, `std` and evenly spaced `quantiles`, from the smallest value to the largest, are those of the training
    examples. A classifier's output for it is the mean of z = (value - mean) / std and the logarithm of its standard
    deviation. Conditions of one name and unit mean the same: they are equal, whatever the data.
    """

    name: str
    mean: float = field(compare=False)
    std: float = field(compare=False)
    quantiles: tuple[float, ...] = field(compare=False)
    unit: str = ""

    @property
    def outputs(self) -> int:
        return 2

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return torch.full((batch,), math.nan, device=device)

    def given(self, value: Tensor) -> Tensor:
        return ~value.isnan()

    def standardised(self, value: Tensor) -> Tensor:
        """z = (value - mean) / std."""
        return (value - self.mean) / self._scale

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """A value, `2.5`, for all; or a range, `40..60`, `40..` or `..60`, in which each sample gets its own.

        Values in a range are drawn as the training examples have them within it. As
        p(x | c in I) = integral of p(x | c) p(c | c in I) dc, samples that are asked for them are samples asked for the
        range. Where no example is in the range they are drawn evenly.
        """
        try:
            first, last = read_range(text, _number)
        except ValueError:
            words = "write a number such as 2.5, or a range such as 40..60"
            raise UserError(f"{self.name}={text}: {words}") from None
        if first is None:
            first = min(self.quantiles[0], math.inf if last is None else last)
        if last is None:
            last = max(self.quantiles[-1], first)
        if last < first:
            raise UserError(f"{self.name}={text}: the range ends before it begins")
        return self._within(first, last, uniform(indices, seed, "asked", self.name)).float()

    def _within(self, low: float, high: float, u: Tensor) -> Tensor:
        """The value of the training distribution, cut to [low, high], below which a share `u` of it lies."""
        values = torch.tensor(self.quantiles, dtype=torch.float64)
        shares = torch.linspace(0, 1, len(values), dtype=torch.float64)
        # Many examples may have the very value of an end: those of both ends are in the range.
        upto = _interpolated(torch.tensor([high], dtype=torch.float64), values, shares)
        below = 1 - _interpolated(torch.tensor([-low], dtype=torch.float64), -values.flip(0), shares)
        if not bool(upto > below):
            return low + (high - low) * u
        return _interpolated(below + (upto - below) * u, shares, values).clamp(low, high)

    def warning(self, value: Tensor) -> str | None:
        """Says where values lie outside those of the training examples."""
        low, high = self.quantiles[0], self.quantiles[-1]
        outside = int(((value < low) | (value > high)).sum())
        if not outside:
            return None
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{self.name}: {outside} of {len(value)} values asked for lie outside what was seen in training, "
            f"{low:.4g} to {high:.4g}{unit}; expect samples to fall short of them"
        )

    def examples(self, batch: int) -> Tensor:
        """Nothing is asked for: several numbers cannot be chosen freely and still belong to one sample."""
        return self.null(batch)

    def caption(self, value: Tensor) -> str:
        return "any" if bool(value.isnan()) else f"{value.item():.4g}"

    def log_likelihood(self, output: Tensor, value: Tensor) -> Tensor:
        """log N(z; m, s^2) - log std: the density of the value in its own unit."""
        known = self.given(value)
        mean, log_std = output.unbind(1)
        log_std = log_std.clamp(*_LOG_STD)
        z = (self.standardised(value.where(known, self.mean)) - mean) / log_std.exp()
        density = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi) - math.log(self._scale)
        return density.where(known, 0.0)

    def best_constant(self, values: Tensor) -> Tensor:
        """The mean and the standard deviation of the values."""
        z = self.standardised(values[self.given(values)].double())
        if not len(z):
            return torch.zeros(2)
        return torch.stack([z.mean(), z.std(correction=0).clamp(min=1e-6).log()]).float()

    def measures(self, output: Tensor, value: Tensor) -> dict[str, Tensor]:
        """The absolute error of the predicted mean, in the value's own unit."""
        known = self.given(value)
        return {"mae": (output[:, 0] * self._scale + self.mean - value)[known].abs().double()}

    @property
    def _scale(self) -> float:
        """The standard deviation, or 1 where all training examples have the same value."""
        return self.std if self.std > 0 else 1.0


_LOG_STD = (-4.0, 3.0)
"""Predicted standard deviations stay between e^-4 and e^3 of the data's, so that no value seems impossible."""


def _number(word: str) -> float:
    """A finite number that float32 can hold, or a `ValueError`."""
    value = float(word)
    if not abs(value) <= torch.finfo(torch.float32).max:
        raise ValueError(word)
    return value


def _interpolated(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """The piecewise linear function through (xs, ys), xs not falling, at `x` `[n]`; constant beyond its ends.

    Where several xs are the same the function jumps, and has there the value of the last.
    """
    upper = torch.searchsorted(xs, x.contiguous(), right=True)
    right = upper.clamp(1, len(xs) - 1)
    left = right - 1
    share = (x - xs[left]) / (xs[right] - xs[left]).clamp(min=1e-300)
    inner = ys[left] + share.clamp(0, 1) * (ys[right] - ys[left])
    return torch.where(upper == len(xs), ys[-1], inner)


def nulls(conditions: Sequence[Condition], batch: int, device: torch.device | str = "cpu") -> Conditions:
    """A batch in which no condition is given."""
    return {condition.name: condition.null(batch, device) for condition in conditions}


def captions_of(conditions: Sequence[Condition], values: Conditions, batch: int | None = None) -> list[dict[str, str]]:
    """What each sample is asked to be, by name of condition; without what is not given.

    Of `batch` samples, so that there are as many where there are no conditions; of those that have values where None.
    """
    if batch is None:
        batch = max(map(len, values.values()), default=0)
    named = [(c, values[c.name], c.given(values[c.name])) for c in conditions if c.name in values]
    return [{c.name: c.caption(value[i]) for c, value, given in named if given[i]} for i in range(batch)]


def any_given(conditions: Sequence[Condition], values: Conditions) -> bool:
    """Whether any sample is asked for anything."""
    return any(bool(c.given(values[c.name]).any()) for c in conditions if c.name in values)


def drop(
    conditions: Sequence[Condition], values: Conditions, probability: float, generator: torch.Generator
) -> Conditions:
    """Replace each condition of each sample by its null value with `probability`, each on its own.

    Ho & Salimans 2022, section 3.2: one network learns the conditional and the unconditional model.
    """
    dropped = {}
    for condition in conditions:
        value = values[condition.name]
        chosen = (torch.rand(len(value), generator=generator) < probability).to(value.device)
        dropped[condition.name] = torch.where(chosen, condition.null(len(value), value.device), value)
    return dropped


def parse_conditions(
    conditions: Sequence[Condition], asked: Mapping[str, str], indices: Sequence[int], seed: int = 0
) -> Conditions:
    """The conditions of the samples `indices` of `seed`, as a user asks for them; what is not asked for is null."""
    names = [condition.name for condition in conditions]
    for name in asked:
        if name not in names:
            raise UserError(f"unknown condition {name!r}; this model takes: {', '.join(names) or 'none'}")
    values = nulls(conditions, len(indices))
    for condition in conditions:
        if condition.name in asked:
            values[condition.name] = condition.parse(asked[condition.name], indices, seed)
    return values
