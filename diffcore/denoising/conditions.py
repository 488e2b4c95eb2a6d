"""Conditions: the properties that a sample should have. Each has a name, a type and a null value of its own.

The values of a batch are a dictionary of tensors `[B, ...]`, by the name of the condition. The null value means "not
given": it replaces values that are dropped in training, and guidance compares with it.
"""

import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffcore.denoising.heads import ClassHead, Head, ScalarHead
from diffcore.denoising.inputs import NO_INPUTS, Inputs
from diffcore.denoising.ranges import read_range
from diffcore.denoising.scalar_embedding import ScalarEmbedding
from diffcore.errors import UserError, did_you_mean
from diffcore.states.noise import Draws
from diffcore.states.placement import to_device

Conditions = dict[str, Tensor]
"""The values of a batch, `[B, ...]` by the name of the condition."""


class Condition(ABC):
    """A kind of condition: its values, and how a network receives them. Plugins may write their own.

    The values of a batch are a tensor `[B, ...]`, such as class indices `[B]`, the words of texts `[B, L]` or pictures
    `[B, C, H, W]`. Subclasses are frozen dataclasses: two models have the same condition if they compare equal. A
    subclass has to define `name`, `null`, `given` and `embedding`; and `parse`, if values can be written as text.
    """

    name: str
    """The name of the condition."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one value: `()` for numbers and classes."""
        return tuple(self.null(1).shape[1:])

    @property
    def inputs(self) -> Inputs:
        """What `embedding` yields besides a vector. Networks with such inputs take it, others are refused."""
        return NO_INPUTS

    @property
    def head(self) -> Head | None:
        """What the outputs of a noisy classifier mean; None if a classifier cannot predict this condition."""
        return None

    @abstractmethod
    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """Null values, `[batch, ...]`: "not given"."""

    @abstractmethod
    def given(self, value: Tensor) -> Tensor:
        """Which values are not null, bool `[B]`."""

    @abstractmethod
    def embedding(self, width: int) -> nn.Module:
        """A new module that embeds values `[B, ...]`, including null values.

        It returns a vector `[B, width]`, which is added to the conditioning vector of a network, or an `Embedded` with
        tokens or channels, as `inputs` announces.
        """

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """The values `[B, ...]` that a user asks for, for the samples `indices` of `seed`.

        Raises `UserError` if `text` is not a valid value, or if values cannot be written as text.
        """
        raise UserError(f"values of the condition {self.name!r} cannot be written as text: give a tensor in Python")

    def require(self, value: Tensor) -> None:
        """Raise `UserError` if one of the values `[B, ...]` does not exist, or if they have the wrong type.

        Their shape is checked elsewhere.
        """
        if (value.is_floating_point() and not self.null(1).is_floating_point()) or value.dtype.is_complex:
            raise UserError(f"the condition {self.name!r} has numbers of the type {value.dtype}; give whole numbers")

    def warning(self, value: Tensor) -> str | None:
        """A warning about requested values that samples may not reach, or None."""
        return None

    def examples(self, batch: int) -> Tensor:
        """Typical values for pictures of samples, `[batch, ...]`; null values where there are none."""
        return self.null(batch)

    def caption(self, value: Tensor) -> str:
        """One value, of the shape `[...]`, as text; it is not called for null values."""
        return "given"


@dataclass(frozen=True)
class ClassCondition(Condition):
    """One of K classes, int64 `[B]`; the null value is K.

    * `name`: the name of the condition.
    * `classes`: the names of the K classes.

    The embedding is a table of vectors of unit variance, with one for the null value. The outputs of a noisy classifier
    are K logits.
    """

    name: str
    classes: tuple[str, ...]

    @property
    def head(self) -> ClassHead:
        return ClassHead(len(self.classes))

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return torch.full((batch,), len(self.classes), dtype=torch.int64, device=device)

    def given(self, value: Tensor) -> Tensor:
        return value < len(self.classes)

    def embedding(self, width: int) -> nn.Module:
        return nn.Embedding(len(self.classes) + 1, width)

    def require(self, value: Tensor) -> None:
        super().require(value)
        count = len(self.classes)
        outside = value[(value < 0) | (value > count)]
        if len(outside):
            raise UserError(
                f"the condition {self.name!r} has the value {int(outside[0])}; its classes are 0 to {count - 1}, and "
                f"{count} means that none is given"
            )

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

    def examples(self, batch: int) -> Tensor:
        """The classes, one after another."""
        return torch.arange(batch) % len(self.classes)

    def caption(self, value: Tensor) -> str:
        return self.classes[int(value)] if int(value) < len(self.classes) else "any"


@dataclass(frozen=True)
class ScalarCondition(Condition):
    """A number, float `[B]`; the null value is nan.

    * `name`: the name of the condition.
    * `mean`, `std`: the mean and the standard deviation of the training examples.
    * `quantiles`: quantiles of the training examples at evenly spaced levels, from the smallest value to the largest.
    * `unit`: the unit of the values, for messages.

    The embedding is `ScalarEmbedding`. The outputs of a noisy classifier are the mean of z = (value - mean) / std and
    the logarithm of its standard deviation. Conditions with the same name and unit compare equal, for any data.
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
    def head(self) -> ScalarHead:
        return ScalarHead(self.mean, self._scale)

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return torch.full((batch,), math.nan, device=device)

    def given(self, value: Tensor) -> Tensor:
        return ~value.isnan()

    def embedding(self, width: int) -> nn.Module:
        return ScalarEmbedding(self.mean, self._scale, width)

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

    @property
    def _scale(self) -> float:
        """`std`, or 1 if all training examples have the same value."""
        return self.std if self.std > 0 else 1.0


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


def drop(conditions: Sequence[Condition], values: Conditions, probability: float, u: Tensor) -> Conditions:
    """Replace each condition of each sample by its null value with `probability`, independently.

    Ho & Salimans 2022, section 3.2: so that one network learns the conditional and the unconditional model. `u`
    `[B, len(conditions)]` are uniform numbers in [0, 1): a condition is dropped where its number is below
    `probability`.
    """
    dropped = {}
    for condition, column in zip(conditions, u.unbind(1), strict=True):
        value = values[condition.name]
        dropped[condition.name] = with_nulls(condition, value, to_device(column, value.device) < probability)
    return dropped


def with_nulls(condition: Condition, value: Tensor, rows: Tensor) -> Tensor:
    """The values `[B, ...]` with null values in the `rows`, bool `[B]`."""
    rows = rows.reshape(-1, *[1] * (value.ndim - 1))
    return torch.where(rows, condition.null(len(value), value.device), value)


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
            values[condition.name] = parsed(condition, asked[condition.name], indices, seed)
    return values


def parsed(condition: Condition, text: str, indices: Sequence[int], seed: int = 0) -> Tensor:
    """The value that `text` means. Raises `UserError` where `parse` raises `ValueError`, or PyTorch `RuntimeError`."""
    try:
        return condition.parse(text, indices, seed)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{condition.name}: {text!r} cannot be read: {error}") from error
