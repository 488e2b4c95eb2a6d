"""Heads: what the outputs of a noisy classifier for one condition mean."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Head(Protocol):
    """The likelihood of the values `[B, ...]` of a condition, given the outputs `[B, outputs]` of a classifier."""

    @property
    def outputs(self) -> int:
        """The number of outputs that a noisy classifier has for the condition."""

    def log_likelihood(self, output: Tensor, value: Tensor) -> Tensor:
        """log p(value) under a classifier's `output` `[B, outputs]`, in nats, `[B]`; 0 where the value is null."""

    def best_constant(self, values: Tensor) -> Tensor:
        """The constant output `[outputs]` with the highest likelihood of `values`; arbitrary if none is given."""

    def measures(self, output: Tensor, value: Tensor) -> dict[str, Tensor]:
        """Further metrics of a classifier, such as its accuracy, each `[n]` for the n values that are given."""


@dataclass(frozen=True)
class ClassHead:
    """The outputs are the logits of `classes` classes; the null value is `classes`."""

    classes: int

    @property
    def outputs(self) -> int:
        return self.classes

    def log_likelihood(self, output: Tensor, value: Tensor) -> Tensor:
        given = value < self.classes
        chosen = output.log_softmax(1).gather(1, value.where(given, 0)[:, None])[:, 0]
        return chosen.where(given, 0.0)

    def best_constant(self, values: Tensor) -> Tensor:
        """The logarithms of the frequencies of the classes."""
        counts = torch.bincount(values[values < self.classes], minlength=self.classes).double()
        return (counts / counts.sum().clamp(min=1)).clamp(min=1e-12).log().float()

    def measures(self, output: Tensor, value: Tensor) -> dict[str, Tensor]:
        """`accuracy`: 1 where the class with the largest logit is the right one."""
        return {"accuracy": (output.argmax(1) == value)[value < self.classes].double()}


@dataclass(frozen=True)
class ScalarHead:
    """The outputs are the mean of z = (value - mean) / scale and the logarithm of its standard deviation.

    The null value is nan.
    """

    mean: float
    scale: float
    outputs: int = 2

    def log_likelihood(self, output: Tensor, value: Tensor) -> Tensor:
        """log N(z; m, s^2) - log scale: the log-density of the value in its own unit."""
        given = ~value.isnan()
        mean, log_std = output.unbind(1)
        log_std = log_std.clamp(*_LOG_STD)
        z = ((value.where(given, self.mean) - self.mean) / self.scale - mean) / log_std.exp()
        density = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi) - math.log(self.scale)
        return density.where(given, 0.0)

    def best_constant(self, values: Tensor) -> Tensor:
        """The mean and the logarithm of the standard deviation of z."""
        z = (values[~values.isnan()].double() - self.mean) / self.scale
        if not len(z):
            return torch.zeros(2)
        return torch.stack([z.mean(), z.std(correction=0).clamp(min=1e-6).log()]).float()

    def measures(self, output: Tensor, value: Tensor) -> dict[str, Tensor]:
        """`mae`: the absolute error of the predicted mean, in the value's own unit."""
        return {"mae": (output[:, 0] * self.scale + self.mean - value)[~value.isnan()].abs().double()}


_LOG_STD = (-4.0, 3.0)
"""Predicted standard deviations are clamped to e^-4 to e^3 times the scale, so that no value becomes impossible."""
