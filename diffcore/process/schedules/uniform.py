"""The schedule whose log-SNR is a straight line."""

from dataclasses import dataclass

from torch import Tensor

from diffcore.process.schedules.schedule import VariancePreserving


@dataclass(frozen=True)
class Uniform(VariancePreserving):
    """lambda(t) = log_snr_max - (log_snr_max - log_snr_min) t.

    With the weighting `eps`, the mean loss is then the variational bound, up to a factor and its two end terms: for
    infinitely many steps the bound is half the integral of e^lambda |x0_hat - x0|^2 over lambda. Kingma et al. 2021
    (variational diffusion models), eq. 17 and 18.
    """

    log_snr_min: float = -10.0
    log_snr_max: float = 10.0

    def log_snr(self, t: Tensor) -> Tensor:
        t = t.double()
        return (1 - t) * self.log_snr_max + t * self.log_snr_min

    def time(self, log_snr: Tensor) -> Tensor:
        return (self.log_snr_max - log_snr.double()) / (self.log_snr_max - self.log_snr_min)
