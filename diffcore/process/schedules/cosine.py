"""The cosine schedule in continuous time."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcore.process.schedules.schedule import VariancePreserving


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """lambda(t) = shift - 2 log tan(angle), where the angle increases linearly with t.

    The angle runs between the two values at which lambda is `log_snr_max` and `log_snr_min`. Without shift,
    alpha = cos(angle) and sigma = sin(angle): Nichol & Dhariwal 2021, eq. 17, without their offset. A negative `shift`
    spends more of the time at high noise, where the layout of a sample is decided (Hoogeboom et al. 2023, simple
    diffusion, eq. 7).
    """

    log_snr_min: float = -10.0
    log_snr_max: float = 10.0
    shift: float = 0.0

    def _ends(self) -> tuple[float, float, float]:
        """The angle at time 0, pi/2 minus the angle at time 1, and the difference of the two angles."""
        first = math.atan(math.exp((self.shift - self.log_snr_max) / 2))
        last = math.atan(math.exp((self.log_snr_min - self.shift) / 2))
        return first, last, math.pi / 2 - last - first

    def log_snr(self, t: Tensor) -> Tensor:
        first, last, between = self._ends()
        t = t.double()
        # Each half of the time is measured from its own end, because tan loses precision near pi/2 and 1 / tan near 0.
        from_noise = t > 0.5
        tan = torch.log(torch.tan(torch.where(from_noise, last + (1 - t) * between, first + t * between)))
        return self.shift + 2 * torch.where(from_noise, tan, -tan)

    def time(self, log_snr: Tensor) -> Tensor:
        first, _, between = self._ends()
        return (torch.atan(torch.exp((self.shift - log_snr.double()) / 2)) - first) / between
