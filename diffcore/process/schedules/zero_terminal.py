"""Zero terminal SNR: a schedule moved so that no signal is left at its noisy end."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffcore.process.schedules.schedule import Schedule, VariancePreserving


@dataclass(frozen=True)
class ZeroTerminal(VariancePreserving):
    """alpha(t) = c (a(t) - a(1)), c = a(0) / (a(0) - a(1)), with a the alpha of a variance-preserving `base`.

    Lin et al. 2024, algorithm 1. alpha(0) stays, alpha(1) = 0 and lambda(1) = -infinity: there the state is noise and
    nothing else, as sampling starts, and x0 must be predicted without dividing by alpha. Raises `ValueError` where
    the base is not variance-preserving or has an infinite noisy end already.
    """

    base: Schedule

    def __post_init__(self) -> None:
        last = self.base.level(self.base.log_snr(torch.ones(1, dtype=torch.float64)))
        if abs(last.total.item() - 1) > 1e-9:
            raise ValueError(f"zero terminal SNR is for variance-preserving schedules, not {self.base}")
        if last.alpha.item() == 0:
            raise ValueError(f"{self.base} ends at zero SNR already")

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1 - a(0), a(1) and c of the base."""
        ends = self.base.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device=like.device))
        first, last = self.base.level(ends).alpha
        return _complement(ends[0]), last, first / (first - last)

    def log_snr(self, t: Tensor) -> Tensor:
        t = t.double()
        lost, last, factor = self._ends(t)
        base = self.base.log_snr(t)
        alpha = factor * (base.sigmoid().sqrt() - last)
        # Rounding may differ between the end as one value and the end within many.
        alpha = torch.where(t < 1, alpha, 0.0).clamp(min=0)
        # 1 - alpha = lost + c (a(0) - a(t)), a sum of positive terms.
        return _log_snr(alpha, lost + factor * (_complement(base) - lost))

    def time(self, log_snr: Tensor) -> Tensor:
        log_snr = log_snr.double()
        lost, last, factor = self._ends(log_snr)
        alpha = last + log_snr.sigmoid().sqrt() / factor
        return self.base.time(_log_snr(alpha, lost + (_complement(log_snr) - lost) / factor))


def _complement(log_snr: Tensor) -> Tensor:
    """1 - alpha = sigma^2 / (1 + alpha) of a variance-preserving level."""
    return torch.sigmoid(-log_snr) / (1 + torch.sigmoid(log_snr).sqrt())


def _log_snr(alpha: Tensor, complement: Tensor) -> Tensor:
    """log(alpha^2 / (1 - alpha^2)) of alpha and 1 - alpha."""
    return 2 * torch.log(alpha) - torch.log(complement) - torch.log1p(alpha)
