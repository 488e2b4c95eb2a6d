"""The path of the probability flow: the levels that it passes, and the variable in which it is integrated.

On the circle alpha = cos phi, sigma = sin phi, the flow is dx/dphi = v for every schedule. It is integrated in the time
asinh(phi / 0.03), which is linear in phi at high noise and in log-SNR at low noise.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcore.process.schedules import ByField, Schedule, variance_preserving
from diffcore.states.form import require_some_fields
from diffcore.states.level import CLEAN, FieldLevels, Level, Levels
from diffcore.states.state import State, Weight, fields

_BEND = 0.03
"""The angle phi at which the clock asinh(phi / 0.03) changes from logarithmic to linear."""


def time_at(log_snr: float) -> float:
    """The time of integration at a log-SNR."""
    return math.asinh(math.atan(math.exp(-log_snr / 2)) / _BEND)


def angle_at(time: Tensor) -> tuple[Tensor, Tensor]:
    """The angle phi at times `[B]`, and its derivative with respect to the time."""
    return _BEND * time.sinh(), _BEND * time.cosh()


@dataclass(frozen=True)
class Path:
    """The levels along the flow, by the angle phi of the common level: tan phi_f = k_f tan phi for each field.

    `factors` are k_f, 0 for a given field; None if there is one level for all fields.
    """

    factors: Mapping[str, float] | None

    def end(self, log_snr: float) -> Levels:
        """The level of floats where the common log-SNR is `log_snr`."""
        if self.factors is None:
            return float_level(log_snr)
        return FieldLevels(
            {name: float_level(log_snr - 2 * math.log(k)) if k else CLEAN for name, k in self.factors.items()}
        )

    def level(self, phi: Tensor) -> Levels:
        """The level at the angle `[B]`."""
        cos, sin = phi.cos(), phi.sin()
        if self.factors is None:
            return Level(cos, sin)
        total = {name: torch.hypot(cos, k * sin) for name, k in self.factors.items()}
        return FieldLevels(
            {name: Level(cos / total[name], k * sin / total[name]) if k else CLEAN for name, k in self.factors.items()}
        )

    def rate(self, phi: Tensor, rate: Tensor) -> Weight:
        """`rate` dphi_f/dphi = rate k_f / (cos^2 phi + k_f^2 sin^2 phi), `[B]` for each field."""
        if self.factors is None:
            return rate
        squares = phi.cos() ** 2, phi.sin() ** 2
        return {n: rate * k / (squares[0] + k**2 * squares[1]) if k else 0.0 for n, k in self.factors.items()}


def path_of(schedule: Schedule, x0: State, given: Collection[str]) -> Path:
    """The path of a schedule. Raises `UserError` if `given` has names that are no fields, or all fields."""
    names = fields(x0).keys()
    require_some_fields(given, names, "no density to compute")
    shifts = schedule.shifts if isinstance(schedule, ByField) else {}
    if not given and not any(shifts.values()):
        return Path(None)
    return Path({name: 0.0 if name in given else math.exp(-shifts.get(name, 0.0) / 2) for name in names})


def float_level(log_snr: float) -> Level[float]:
    """The variance-preserving level of a log-SNR."""
    alpha, sigma = variance_preserving(torch.tensor(log_snr, dtype=torch.float64))
    return Level(alpha.item(), sigma.item())
