"""A schedule whose clean end is moved to a level with noise."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffcore.process.schedules.by_field import ByField
from diffcore.process.schedules.schedule import Schedule
from diffcore.states.level import Levels


@dataclass(frozen=True)
class Until:
    """lambda(t) = lambda_base(t_0 + (1 - t_0) t), where lambda_base(t_0) = `last`: time 0 has the log-SNR `last`.

    For states that are never needed without noise, such as latents whose decoder was trained with noise on them: no
    step of training is spent on lower noise, and sampling ends at `last`. The noisy end and the relative density of the
    levels between the ends are those of `base`.
    """

    base: Schedule
    last: float

    def _first(self) -> Tensor:
        return self.base.time(torch.tensor(self.last, dtype=torch.float64))

    def log_snr(self, t: Tensor) -> Tensor:
        first = self._first().to(t.device)
        inner = self.base.log_snr(first + (1 - first) * t.double())
        return torch.where(t > 0, inner.clamp(max=self.last), self.last)

    def time(self, log_snr: Tensor) -> Tensor:
        first = self._first().to(log_snr.device)
        return (self.base.time(log_snr) - first) / (1 - first)

    def level(self, log_snr: Tensor) -> Levels:
        return self.base.level(log_snr)


def ending_at(schedule: Schedule, last: float | None) -> Schedule:
    """The schedule until the log-SNR `last`; unchanged if that is None, or if the schedule ends with more noise."""
    if last is None:
        return schedule
    if isinstance(schedule, ByField):
        return replace(schedule, base=ending_at(schedule.base, last))
    clean = schedule.log_snr(torch.zeros(1, dtype=torch.float64)).item()
    return schedule if clean <= last else Until(schedule, last)


def last_level(schedule: Schedule, last: float | None) -> Levels | None:
    """The level at which sampling ends, of floats: that of the log-SNR `last`; None where it ends without noise."""
    if last is None:
        return None
    base = schedule.base if isinstance(schedule, ByField) else schedule  # all fields end alike
    return base.level(torch.tensor(last, dtype=torch.float64)).map(Tensor.item)
