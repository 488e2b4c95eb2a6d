"""Zero terminal SNR: a schedule shifted and rescaled so that its noisy end contains no signal."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffcore.process.schedules.schedule import Schedule, VariancePreserving
from diffcore.states.level import Level


@dataclass(frozen=True)
class ZeroTerminal(VariancePreserving):
    """alpha(t) = c (a(t) - a(1)), c = a(0) / (a(0) - a(1)), where a is the alpha of a variance-preserving `base`.

    Lin et al. 2024, algorithm 1. alpha(0) does not change; alpha(1) = 0 and lambda(1) = -infinity, so that the state at
    t = 1 is pure noise, with which sampling starts. x0 must then be predicted without a division by alpha. Raises
    `ValueError` if `base` is not variance-preserving, or if its noisy end is infinite already.
    """

    base: Schedule

    def __post_init__(self) -> None:
        last = self._level(self.base.log_snr(torch.ones(1, dtype=torch.float64)))
        if abs(last.total.item() - 1) > 1e-9:
            raise ValueError(f"zero terminal SNR needs a variance-preserving schedule, not {self.base}")
        if last.alpha.item() == 0:
            raise ValueError(f"{self.base} ends at zero SNR already")

    def _level(self, log_snr: Tensor) -> Level[Tensor]:
        level = self.base.level(log_snr)
        if isinstance(level, Level):
            return level
        raise ValueError(f"zero terminal SNR needs one level for all fields, not {self.base}")

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1 - a(0), a(1) and c of the base."""
        ends = self.base.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device=like.device))
        first, last = self._level(ends).alpha
        return _complement(ends[0]), last, first / (first - last)

    def log_snr(self, t: Tensor) -> Tensor:
        t = t.double()
        start, last, factor = self._ends(t)
        base = self.base.log_snr(t)
        alpha = factor * (base.sigmoid().sqrt() - last)
        # Rounding may differ between a tensor of one time and a tensor of many, so alpha(1) = 0 is set.
        alpha = torch.where(t < 1, alpha, 0.0).clamp(min=0)
        # 1 - alpha = 1 - a(0) + c (a(0) - a(t)), a sum of positive terms.
        return _log_snr(alpha, start + factor * (_complement(base) - start))

    def time(self, log_snr: Tensor) -> Tensor:
        log_snr = log_snr.double()
        start, last, factor = self._ends(log_snr)
        alpha = last + log_snr.sigmoid().sqrt() / factor
        return self.base.time(_log_snr(alpha, start + (_complement(log_snr) - start) / factor))


def _complement(log_snr: Tensor) -> Tensor:
    """1 - alpha = sigma^2 / (1 + alpha) of a variance-preserving level."""
    return torch.sigmoid(-log_snr) / (1 + torch.sigmoid(log_snr).sqrt())


def _log_snr(alpha: Tensor, complement: Tensor) -> Tensor:
    """log(alpha^2 / (1 - alpha^2)), computed from alpha and `complement` = 1 - alpha."""
    return 2 * torch.log(alpha) - torch.log(complement) - torch.log1p(alpha)
