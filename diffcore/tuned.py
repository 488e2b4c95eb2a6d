"""What `diffcore tune` found for a run, in its file tuned.json: for each number of steps, levels and a method."""

from typing import Literal

import torch
from pydantic import Field, field_validator

from diffcore.components import Settings
from diffcore.config import validate
from diffcore.errors import UserError
from diffcore.grids import check_descending
from diffcore.runs import Run, read_json, write_json
from diffcore.solvers import Step, adams


class Tuned(Settings):
    """Levels and the options of `diffcore.solvers.adams`, with how they were found and how well they follow the flow.

    `error` and, with the run's own solver and grid, `untuned_error` are medians of |x - x_accurate| / sqrt(degrees of
    freedom) over trajectories that tuning did not see.
    """

    log_snrs: tuple[float, ...] = Field(min_length=1, max_length=10_000)
    order: int = Field(ge=1, le=8)
    corrected: bool
    clock: Literal["alpha", "log-snr"]
    error: float
    untuned_error: float
    guidance: float
    checkpoint: str
    seed: int

    @field_validator("log_snrs")
    @classmethod
    def _rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        try:
            check_descending(torch.tensor(value, dtype=torch.float64))
        except UserError as error:
            raise ValueError(str(error)) from None
        return value

    def step(self) -> Step:
        """The solver."""
        return adams(self.order, self.corrected, self.clock)


def read_tuned(run: Run) -> dict[int, Tuned]:
    """What was found, by the number of steps, the latest last. Raises `UserError` where the file is damaged."""
    if not run.tuned.exists():
        return {}
    content = read_json(run.tuned)
    advice = f"delete {run.tuned} and run diffcore tune {run.path} again"
    if not isinstance(content, dict):
        raise UserError(f"{run.tuned} does not hold what diffcore tune writes; {advice}")
    found = {}
    for steps, values in content.items():
        if not isinstance(values, dict) or not steps.isdecimal():
            raise UserError(f"{run.tuned}: {steps!r} is not a number of steps with its levels; {advice}")
        tuned = validate(Tuned, values, f"{run.tuned}: {steps}")
        if len(tuned.log_snrs) != int(steps):
            raise UserError(f"{run.tuned}: {len(tuned.log_snrs)} levels for {steps} steps; {advice}")
        found[int(steps)] = tuned
    return found


def write_tuned(run: Run, tuned: Tuned) -> None:
    """Keep `tuned` in the run, in place of what was found before for as many steps."""
    known = read_tuned(run)
    known.pop(len(tuned.log_snrs), None)
    known[len(tuned.log_snrs)] = tuned
    write_json(run.tuned, {str(steps): entry.model_dump(mode="json") for steps, entry in known.items()})
