"""The variance-exploding schedule."""

import math
from dataclasses import dataclass

from torch import Tensor

from diffcore.process.schedules.schedule import variance_exploding
from diffcore.states.level import Level


@dataclass(frozen=True)
class Exploding:
    """The variance-exploding schedule: alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    Song & Ermon 2019 in continuous time (Song et al. 2021, eq. 30). lambda(t) = -2 log sigma(t).
    """

    sigma_min: float = 0.005
    sigma_max: float = 150.0

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_min) + t.double() * math.log(self.sigma_max / self.sigma_min))

    def time(self, log_snr: Tensor) -> Tensor:
        return (-log_snr.double() / 2 - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)

    def level(self, log_snr: Tensor) -> Level:
        return variance_exploding(log_snr)
