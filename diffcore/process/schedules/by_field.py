"""A schedule whose fields have levels of their own: each log-SNR is that of a common schedule, shifted."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from diffcore.process.schedules.schedule import Schedule
from diffcore.states.level import FieldLevels


@dataclass(frozen=True)
class ByField:
    """lambda_f(t) = lambda(t) + c_f for each field f, where lambda is that of `base` and c_f the shift of the field.

    A field with a negative shift has more noise than others at each time, so it is decided later in sampling. For a
    field of standard deviation d it is the same as c_f = 2 log d (docs/levels.md). A positive shift would
    leave signal at the noisy end, where sampling begins with noise alone.

    * `base`: the common schedule. Its `log_snr` and `time` are those of this one.
    * `shifts`: c_f of every field of the state, by name.

    Raises `ValueError` for a positive shift.
    """

    base: Schedule
    shifts: Mapping[str, float]

    def __post_init__(self) -> None:
        if too_high := {name: shift for name, shift in self.shifts.items() if not shift <= 0}:
            raise ValueError(f"shifts of the log-SNR must not be positive: {too_high}")

    def log_snr(self, t: Tensor) -> Tensor:
        return self.base.log_snr(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return self.base.time(log_snr)

    def level(self, log_snr: Tensor) -> FieldLevels:
        return self.level_at({name: log_snr + shift for name, shift in self.shifts.items()})

    def level_at(self, log_snrs: Mapping[str, Tensor]) -> FieldLevels:
        """The levels at the log-SNRs of the fields, which are scaled as by the common schedule."""
        return FieldLevels({name: self.base.level(value) for name, value in log_snrs.items()})  # type: ignore[misc]
