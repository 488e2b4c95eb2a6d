"""Time grids that were fitted to a run, in its file fitted_grids.json: levels and a method by number of steps."""

import json
import math
from itertools import pairwise
from typing import Annotated

from pydantic import ConfigDict, Field, field_validator, model_validator

from diffcore.errors import UserError
from diffcore.names import Clock
from diffcore.plugins.records import Settings
from diffcore.runs.folder import Run
from diffcore.runs.settings import validate
from diffcore.sampling.solvers import Step, adams
from diffcore.system.files import read_json, write_json

FARTHEST = 200.0
"""No log-SNR of use is larger: sigma / alpha would be e^-100."""


class FittedGrid(Settings):
    """Levels and the options of `diffcore.sampling.solvers.adams`, how they were found, how well they follow the flow.

    `error` and, with the run's own solver and grid, `default_error` are geometric means of |x - x_accurate| /
    sqrt(degrees of freedom) over trajectories that tuning did not learn from; None where that leads to no numbers.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    log_snrs: tuple[Annotated[float, Field(allow_inf_nan=True)], ...] = Field(min_length=1, max_length=10_000)
    order: int = Field(ge=1, le=8)
    corrector: int = Field(ge=0, le=8)
    clock: Clock
    shifts: tuple[Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)], ...] = ()
    error: float
    default_error: float | None
    guidance: float
    checkpoint: str
    seed: int

    @field_validator("log_snrs")
    @classmethod
    def _rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not a < b for a, b in pairwise([*value, math.inf])):
            raise ValueError("log-SNRs must rise from each to the next, and only the first may be infinite")
        if any(abs(a) > FARTHEST for a in value[value[0] == -math.inf :]):
            raise ValueError(f"log-SNRs must lie between {-FARTHEST} and {FARTHEST}")
        return value

    @model_validator(mode="after")
    def _one_for_each_level(self) -> "FittedGrid":
        if self.shifts and len(self.shifts) != len(self.log_snrs):
            raise ValueError(f"{len(self.shifts)} shifts for {len(self.log_snrs)} levels")
        return self

    def step(self) -> Step:
        """The solver."""
        return adams(self.order, self.corrector, self.clock, shifts=self.shifts)


def read_fitted_grids(run: Run) -> dict[int, FittedGrid]:
    """What was found, by the number of steps, the latest last. Raises `UserError` where the file is damaged."""
    if not run.fitted_grids.exists():
        return {}
    content = read_json(run.fitted_grids)
    advice = f"delete {run.fitted_grids} and run diffcore tune {run.path} again"
    if not isinstance(content, dict):
        raise UserError(f"{run.fitted_grids} does not hold what diffcore tune writes; {advice}")
    found = {}
    for steps, values in content.items():
        if not isinstance(values, dict):
            raise UserError(f"{run.fitted_grids}: {steps[:20]!r} is not a number of steps with its levels; {advice}")
        try:
            tuned = validate(FittedGrid, values, f"{run.fitted_grids}: {steps[:20]}")
        except UserError as error:
            raise UserError(f"{error}; {advice}") from None
        if steps != str(len(tuned.log_snrs)):
            raise UserError(f"{run.fitted_grids}: {len(tuned.log_snrs)} levels for {steps[:20]!r} steps; {advice}")
        found[len(tuned.log_snrs)] = tuned
    return found


def write_fitted_grid(run: Run, steps: int, tuned: FittedGrid | None) -> None:
    """Keep `tuned` for so many steps, in place of what was found before; with None, keep nothing for them."""
    known = read_fitted_grids(run)
    known.pop(steps, None)
    if tuned is not None:
        known[steps] = tuned
    write_json(run.fitted_grids, {str(steps): json.loads(entry.model_dump_json()) for steps, entry in known.items()})
