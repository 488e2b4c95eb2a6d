"""The schedule of rectified flow: straight lines from data to noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffcore.states.level import Level


@dataclass(frozen=True)
class Rectified:
    """Straight lines from data to noise: alpha = 1 - s, sigma = s, lambda = 2 log((1 - s) / s).

    Liu et al. 2023 (rectified flow), Lipman et al. 2023 (optimal-transport path). s = e + t (1 - 2 e) with
    e = `epsilon`, so that lambda is finite at both ends.
    """

    epsilon: float = 1e-3

    def log_snr(self, t: Tensor) -> Tensor:
        t = t.double()
        signal, noise = (self.epsilon + part * (1 - 2 * self.epsilon) for part in (1 - t, t))
        return 2 * (torch.log(signal) - torch.log(noise))

    def time(self, log_snr: Tensor) -> Tensor:
        return (torch.sigmoid(-log_snr.double() / 2) - self.epsilon) / (1 - 2 * self.epsilon)

    def level(self, log_snr: Tensor) -> Level:
        return Level(torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2))
