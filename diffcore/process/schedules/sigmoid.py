"""The sigmoid schedule."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcore.process.schedules.schedule import VariancePreserving


@dataclass(frozen=True)
class Sigmoid(VariancePreserving):
    """alpha^2 = (S(b) - S(z)) / (S(b) - S(a)), where S is the sigmoid and z increases linearly from a to b.

    a = start / tau, b = end / tau. Jabri et al. 2022; Chen 2023, section 2.1. With a larger `tau`, alpha^2 is closer to
    a straight line in t. z stays away from both ends by the fraction `epsilon` of b - a, because lambda is infinite
    there. With S(x) - S(y) = sinh((x - y) / 2) / (2 cosh(x / 2) cosh(y / 2)),

        lambda = log(sinh((b - z) / 2) / sinh((z - a) / 2)) + log(cosh(a / 2) / cosh(b / 2)).
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    epsilon: float = 1e-4

    def _width(self) -> float:
        """b - a."""
        return (self.end - self.start) / self.tau

    def _offset(self) -> float:
        """log(cosh(a / 2) / cosh(b / 2))."""
        first, last = (abs(edge) / self.tau for edge in (self.start, self.end))
        return (first - last) / 2 + math.log1p(math.exp(-first)) - math.log1p(math.exp(-last))

    def log_snr(self, t: Tensor) -> Tensor:
        t = t.double()
        after, before = (self._width() * (self.epsilon + part * (1 - 2 * self.epsilon)) for part in (1 - t, t))
        # after = b - z, before = z - a; log sinh(x / 2) = x / 2 + log(1 - e^-x) - log 2.
        logs = torch.log(-torch.expm1(-after)) - torch.log(-torch.expm1(-before))
        return self._offset() + (after - before) / 2 + logs

    def time(self, log_snr: Tensor) -> Tensor:
        # With R = exp(lambda - offset) and w = b - a: z - a = log((R + e^(w/2)) / (R + e^(-w/2))).
        ratio, width = torch.exp(log_snr.double() - self._offset()), self._width()
        before = torch.log1p(2 * math.sinh(width / 2) / (ratio + math.exp(-width / 2)))
        return (before / width - self.epsilon) / (1 - 2 * self.epsilon)
