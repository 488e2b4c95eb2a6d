"""The condition that is a number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions.condition import Condition
from diffcore.denoising.heads import ScalarHead
from diffcore.denoising.ranges import read_range
from diffcore.denoising.scalar_embedding import ScalarEmbedding
from diffcore.errors import UserError
from diffcore.states.noise import Draws


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
