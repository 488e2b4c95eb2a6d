"""The noise levels of the examples of a batch: one for each example, or one for each of its fields."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from diffcore.process.schedules import ByField, Schedule
from diffcore.process.variances import LogSnr
from diffcore.runs.settings import LevelSettings
from diffcore.states.level import Levels
from diffcore.states.noise import Draws

CLEAN_LOG_SNR = 24.0
"""The log-SNR of a field that is given: above `GIVEN_LOG_SNR`, yet finite; sigma is 6e-6 there."""


def log_snrs_of(
    schedule: Schedule,
    settings: LevelSettings,
    t: Tensor,
    earlier: float,
    draws: Draws,
    sides: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[LogSnr]:
    """The log-SNRs of the examples at their times, and at the times `earlier` before them, each `[B]` or by field.

    * `t`: the time of each example, float64 `[B]`. It is not used for examples whose fields have times of their own.
    * `draws`: the random numbers of the examples, on the device of `t`.
    * `sides`: the fields of each side of a joint state, which have one time. Each other field is a side of its own.

    With a schedule by field, the log-SNR of a field is that of its time plus its shift. In a fraction
    `settings.independent` of the examples, each side has a uniform time of its own, and each is given with the
    probability `settings.given`; if all would be, one of them, at random, is not.
    """
    if not isinstance(schedule, ByField):
        return [schedule.log_snr(t), schedule.log_snr((t - earlier).clamp(min=0))]
    settings = settings.of_state(joint=bool(sides))
    side_of = {field: side for side, own in sides.items() for field in own}
    names = [*dict.fromkeys(side_of.get(name, name) for name in schedule.shifts)]
    u = draws.uniform("levels", 1 + 2 * len(names), dtype=torch.float64)
    independent, own, coins = u[:, 0] < (settings.independent or 0), u[:, 1 : 1 + len(names)], u[:, 1 + len(names) :]
    given = independent[:, None] & (coins < (settings.given or 0))
    spared = coins == coins.amax(1, keepdim=True)
    given = given & ~(given.all(1, keepdim=True) & spared)
    ends: list[LogSnr] = []
    for before in (0.0, earlier):
        values = {}
        for name, shift in schedule.shifts.items():
            column = names.index(side_of.get(name, name))
            time = (torch.where(independent, own[:, column], t) - before).clamp(min=0)
            values[name] = torch.where(given[:, column], CLEAN_LOG_SNR, schedule.log_snr(time) + shift)
        ends.append(values)
    return ends


def level_at(schedule: Schedule, log_snr: LogSnr) -> Levels:
    """The level at a log-SNR, or the levels at those of the fields."""
    if isinstance(log_snr, Mapping):
        assert isinstance(schedule, ByField)
        return schedule.level_at(log_snr)  # type: ignore[arg-type]
    return schedule.level(log_snr)  # type: ignore[arg-type]


def map_log_snr(change: Callable[[Tensor], Tensor], log_snr: LogSnr) -> LogSnr:
    """`change` of the log-SNR, or of those of the fields."""
    if isinstance(log_snr, Mapping):
        return {name: change(value) for name, value in log_snr.items()}  # type: ignore[arg-type]
    return change(log_snr)  # type: ignore[arg-type]
