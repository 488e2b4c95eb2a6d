"""Conditions: the properties that a sample should have. Each has a name, a type and a null value of its own.

The values of a batch are a dictionary of tensors `[B]`, by the name of the condition. The null value means "not given":
it replaces values that are dropped in training, and guidance compares with it.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from diffcore.denoising.ranges import read_range
from diffcore.errors import UserError, did_you_mean
from diffcore.states.noise import Draws

Conditions = dict[str, Tensor]
"""The values of a batch, `[B]` by the name of the condition."""


class Condition(Protocol):
    """A kind of condition. Its values are tensors `[B]`."""

    @property
    def name(self) -> str:
        """The name of the condition."""

    @property
    def outputs(self) -> int:
        """The number of outputs that a noisy classifier has for this condition."""

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """Null values, `[batch]`."""

    def given(self, value: Tensor) -> Tensor:
        """Which values are not null, bool `[B]`."""

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """The values `[B]` that a user asks for, for the samples `indices` of `seed`.

        Raises `UserError` if `text` is not a valid value.
        """

    def warning(self, value: Tensor) -> str | None:
        """A warning about requested values that samples may not reach, or None."""

    def examples(self, batch: int) -> Tensor:
        """Typical values for pictures of samples, `[batch]`."""

    def caption(self, value: Tensor) -> str:
        """One value as text."""

    def log_likelihood(self, output: Tensor, value: Tensor) -> Tensor:
        """log p(value) under a classifier's `output` `[B, outputs]`, in nats, `[B]`; 0 where the value is null."""

    def best_constant(self, values: Tensor) -> Tensor:
        """The constant output `[outputs]` with the highest likelihood of `values`; arbitrary if none is given."""

    def measures(self, output: Tensor, value: Tensor) -> dict[str, Tensor]:
        """Further metrics of a classifier, such as its accuracy, each `[n]` for the n values that are given."""


@dataclass(frozen=True)
class ClassCondition:
    """One of K classes, int64 `[B]`; the null value is K.

    * `name`: the name of the condition.
    * `classes`: the names of the K classes.

    The outputs of a noisy classifier are K logits.
    """

    name: str
    classes: tuple[str, ...]

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return torch.full((batch,), len(self.classes), dtype=torch.int64, device=device)

    def given(self, value: Tensor) -> Tensor:
        return value < len(self.classes)

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """One class for all samples, by its name, `3`, or by its index from 0, `#3`.

        A number without `#` is a name and never an index, because classes may be called 1, 2, 3. Letters with accents
        may be written in both ways that Unicode has.
        """
        found = _found(text, self.classes)
        if found is None:
            shown = ", ".join(self.classes[:20]) + (", …" if len(self.classes) > 20 else "")
            hint = did_you_mean(text, self.classes)
            count = len(self.classes)
            raise UserError(
                f"unknown {self.name} {text!r}{hint}; this model knows: {shown}; by index, #0 to #{count - 1}"
            )
        return torch.full((len(indices),), found)

    def warning(self, value: Tensor) -> str | None:
        return None

    def examples(self, batch: int) -> Tensor:
        """The classes, one after another."""
        return torch.arange(batch) % len(self.classes)

    def caption(self, value: Tensor) -> str:
        return self.classes[int(value)] if int(value) < len(self.classes) else "any"

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def log_likelihood(self, output: Tensor, value: Tensor) -> Tensor:
        given = self.given(value)
        chosen = output.log_softmax(1).gather(1, value.where(given, 0)[:, None])[:, 0]
        return chosen.where(given, 0.0)

    def best_constant(self, values: Tensor) -> Tensor:
        """The logarithms of the frequencies of the classes."""
        counts = torch.bincount(values[self.given(values)], minlength=len(self.classes)).double()
        return (counts / counts.sum().clamp(min=1)).clamp(min=1e-12).log().float()

    def measures(self, output: Tensor, value: Tensor) -> dict[str, Tensor]:
        given = self.given(value)
        return {"accuracy": (output.argmax(1) == value)[given].double()}


@dataclass(frozen=True)
class ScalarCondition:
    """A number, float `[B]`; the null value is nan.

    * `name`: the name of the condition.
    * `mean`, `std`: the mean and the standard deviation of the training examples.
    * `quantiles`: quantiles of the training examples at evenly spaced levels, from the smallest value to the largest.
    * `unit`: the unit of the values, for messages.

    The outputs of a noisy classifier are the mean of z = (value - mean) / std and the logarithm of its standard
    deviation. Conditions with the same name and unit compare equal, for any data.
    """

    name: str
    mean: float = field(compare=False)
    std: float = field(compare=False)
    quantiles: tuple[float, ...] = field(compare=False)
    unit: str = ""

    @classmethod
    def measured(cls, name: str, values: Tensor, unit: str = "", levels: int = 101) -> "ScalarCondition":
        """The condition whose mean, standard deviation and quantiles are those of `values` `[n]`.

        nan stands for examples without a value, which do not count. `levels` is the number of quantiles. Raises
        `UserError` if no value is given, or if one is infinite.
        """
        known = values.detach().flatten().cpu().double()
        known = known[~known.isnan()]
        if not len(known) or not bool(known.isfinite().all()):
            what = "is infinite in some examples" if len(known) else "has no value in any example"
            raise UserError(f"the condition {name!r} {what}; nan means that an example has none")
        places = torch.linspace(0, len(known) - 1, levels, dtype=torch.float64)
        ordered = known.sort().values
        low, high = ordered[places.floor().long()], ordered[places.ceil().long()]
        quantiles = low + (places - places.floor()) * (high - low)
        return cls(name, known.mean().item(), known.std(correction=0).item(), tuple(quantiles.tolist()), unit)

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
        """One value for all samples, `2.5`, or a range, `40..60`, `40..` or `..60`, in which each sample gets its own.

        Values in a range I are drawn from the training distribution, restricted to I, or uniformly if no training
        example lies in I. Because p(x | c in I) = integral of p(x | c) p(c | c in I) dc, samples with these conditions
        are samples of p(x | c in I).
        """
        try:
            first, last = read_range(text, _number)
        except ValueError:
            advice = "write a number such as 2.5, or a range such as 40..60"
            raise UserError(f"{self.name}={text}: {advice}") from None
        if first is None:
            first = min(self.quantiles[0], math.inf if last is None else last)
        if last is None:
            last = max(self.quantiles[-1], first)
        if last < first:
            raise UserError(f"{self.name}={text}: the range ends before it begins")
        u = Draws.of(seed, indices).uniform(("asked", self.name), dtype=torch.float64)
        return self._within(first, last, u).float()

    def _within(self, low: float, high: float, u: Tensor) -> Tensor:
        """The u-quantile of the training distribution restricted to [low, high], `[B]`."""
        values = torch.tensor(self.quantiles, dtype=torch.float64)
        levels = torch.linspace(0, 1, len(values), dtype=torch.float64)
        # P(value <= high) and P(value < low): many examples may lie exactly at an end, which belongs to the range.
        at_most = _interpolated(torch.tensor([high], dtype=torch.float64), values, levels)
        below = 1 - _interpolated(torch.tensor([-low], dtype=torch.float64), -values.flip(0), levels)
        if not bool(at_most > below):
            return low + (high - low) * u
        return _interpolated(below + (at_most - below) * u, levels, values).clamp(low, high)

    def warning(self, value: Tensor) -> str | None:
        """A warning if values lie outside the range of the training examples."""
        low, high = self.quantiles[0], self.quantiles[-1]
        outside = int(((value < low) | (value > high)).sum())
        if not outside:
            return None
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{self.name}: {outside} of {len(value)} requested values lie outside the range of the training examples, "
            f"{low:.4g} to {high:.4g}{unit}; samples may not reach them"
        )

    def examples(self, batch: int) -> Tensor:
        """Null values: values of several conditions cannot be chosen independently of each other."""
        return self.null(batch)

    def caption(self, value: Tensor) -> str:
        return "any" if bool(value.isnan()) else f"{value.item():.4g}"

    def log_likelihood(self, output: Tensor, value: Tensor) -> Tensor:
        """log N(z; m, s^2) - log std: the log-density of the value in its own unit."""
        given = self.given(value)
        mean, log_std = output.unbind(1)
        log_std = log_std.clamp(*_LOG_STD)
        z = (self.standardised(value.where(given, self.mean)) - mean) / log_std.exp()
        density = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi) - math.log(self._scale)
        return density.where(given, 0.0)

    def best_constant(self, values: Tensor) -> Tensor:
        """The mean and the logarithm of the standard deviation of z."""
        z = self.standardised(values[self.given(values)].double())
        if not len(z):
            return torch.zeros(2)
        return torch.stack([z.mean(), z.std(correction=0).clamp(min=1e-6).log()]).float()

    def measures(self, output: Tensor, value: Tensor) -> dict[str, Tensor]:
        """`mae`: the absolute error of the predicted mean, in the value's own unit."""
        given = self.given(value)
        return {"mae": (output[:, 0] * self._scale + self.mean - value)[given].abs().double()}

    @property
    def _scale(self) -> float:
        """`std`, or 1 if all training examples have the same value."""
        return self.std if self.std > 0 else 1.0


_LOG_STD = (-4.0, 3.0)
"""Predicted standard deviations are clamped to e^-4 to e^3 times `std`, so that no value becomes impossible."""


def _number(word: str) -> float:
    """The number that `word` stands for; raises `ValueError` if it is not one, or if float32 cannot hold it."""
    value = float(word)
    if not abs(value) <= torch.finfo(torch.float32).max:
        raise ValueError(word)
    return value


def _interpolated(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Linear interpolation of the points (xs, ys) at `x` `[n]`, with non-decreasing `xs`; constant beyond the ends.

    Where several xs are equal, the function jumps, and its value there is that of the last of them.
    """
    upper = torch.searchsorted(xs, x.contiguous(), right=True)
    right = upper.clamp(1, len(xs) - 1)
    left = right - 1
    weight = (x - xs[left]) / (xs[right] - xs[left]).clamp(min=1e-300)
    inner = ys[left] + weight.clamp(0, 1) * (ys[right] - ys[left])
    return torch.where(upper == len(xs), ys[-1], inner)


def _found(text: str, classes: Sequence[str]) -> int | None:
    """The index of the class with this name, or with the index after `#`; None if there is no such class."""
    if text in classes:
        return classes.index(text)
    composed = unicodedata.normalize("NFC", text)
    if composed in (names := [unicodedata.normalize("NFC", name) for name in classes]):
        return names.index(composed)
    number = text.removeprefix("#")
    if number != text and number.isdecimal() and len(number) < 10 and int(number) < len(classes):
        return int(number)
    return None


def nulls(conditions: Sequence[Condition], batch: int, device: torch.device | str = "cpu") -> Conditions:
    """The null values of all conditions, for a batch."""
    return {condition.name: condition.null(batch, device) for condition in conditions}


def captions_of(conditions: Sequence[Condition], values: Conditions, batch: int | None = None) -> list[dict[str, str]]:
    """The conditions of each sample as text, by the name of the condition; null values are left out.

    There is one dictionary for each of `batch` samples; None takes the number of samples from `values`, which is 0
    if there are no conditions.
    """
    if batch is None:
        batch = max(map(len, values.values()), default=0)
    present = [(c, values[c.name], c.given(values[c.name])) for c in conditions if c.name in values]
    return [{c.name: c.caption(value[i]) for c, value, given in present if given[i]} for i in range(batch)]


def any_given(conditions: Sequence[Condition], values: Conditions) -> bool:
    """Whether any sample has a condition that is not null."""
    return any(bool(c.given(values[c.name]).any()) for c in conditions if c.name in values)


def drop(conditions: Sequence[Condition], values: Conditions, probability: float, draws: Draws) -> Conditions:
    """Replace each condition of each sample by its null value with `probability`, independently.

    Ho & Salimans 2022, section 3.2: so that one network learns the conditional and the unconditional model.
    """
    dropped = {}
    for condition in conditions:
        value = values[condition.name]
        chosen = draws.uniform(("dropped", condition.name)) < probability
        dropped[condition.name] = torch.where(chosen, condition.null(len(value), value.device), value)
    return dropped


def parse_conditions(
    conditions: Sequence[Condition], asked: Mapping[str, str], indices: Sequence[int], seed: int = 0
) -> Conditions:
    """The values that a user asks for, as text by name, for the samples `indices` of `seed`; all others are null.

    Raises `UserError` for a name that is not among `conditions`, and for text that is not a valid value.
    """
    names = [condition.name for condition in conditions]
    for name in asked:
        if name not in names:
            hint = did_you_mean(name, names)
            raise UserError(f"unknown condition {name!r}{hint}; this model takes: {', '.join(names) or 'none'}")
    values = nulls(conditions, len(indices))
    for condition in conditions:
        if condition.name in asked:
            values[condition.name] = condition.parse(asked[condition.name], indices, seed)
    return values
