"""The time grids fitted to a run: levels and solver options by number of steps, in the file fitted_grids.json."""

import json
import logging
import math
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from diffcore.errors import UserError, quoted
from diffcore.names import Clock
from diffcore.plugins.records import Settings
from diffcore.runs.folder import RunFolder
from diffcore.runs.guides import recipe_words
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.runs.settings import validate
from diffcore.sampling.solvers import Step, adams
from diffcore.system.files import read_summed_json, write_summed_json

logger = logging.getLogger(__name__)

FARTHEST = 200.0
"""The largest log-SNR that is accepted: there, sigma / alpha is e^-100."""


class FittedGrid(Settings):
    """A fitted time grid: levels and options of the solver `diffcore.sampling.solvers.adams`, and their errors.

    * `log_snrs`: the log-SNRs of the levels, increasing.
    * `order`, `corrector`, `clock`, `shifts`: options of the solver.
    * `error`: geometric mean of |x - x_accurate| / sqrt(degrees of freedom) over trajectories that were not used for
      fitting.
    * `default_error`: the same for the solver and the grid of the run's settings; None if it is not finite.
    * `checkpoint`, `guides`: the checkpoint, and the recipes of the list of guidance, of the flow that the grid was
      fitted to, along the schedule of the run. `mismatch` compares them with those of another flow.
    * `seed`: the seed of the fit.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    log_snrs: tuple[Annotated[float, Field(allow_inf_nan=True)], ...] = Field(min_length=1, max_length=10_000)
    order: int = Field(ge=1, le=8)
    corrector: int = Field(ge=0, le=8)
    clock: Clock
    shifts: tuple[Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)], ...] = ()
    error: float
    default_error: float | None
    checkpoint: str
    guides: tuple[dict[str, Any], ...] = ()
    seed: int

    @field_validator("log_snrs")
    @classmethod
    def _rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not a < b for a, b in pairwise([*value, math.inf])):
            raise ValueError("log-SNRs must increase, and only the first may be infinite")
        if any(abs(a) > FARTHEST for a in value[value[0] == -math.inf :]):
            raise ValueError(f"log-SNRs must lie between {-FARTHEST} and {FARTHEST}")
        return value

    @model_validator(mode="after")
    def _one_for_each_level(self) -> "FittedGrid":
        if self.shifts and len(self.shifts) != len(self.log_snrs):
            raise ValueError(f"{len(self.shifts)} shifts for {len(self.log_snrs)} levels")
        return self

    def mismatch(self, config: SamplingConfig, checkpoint: str) -> str | None:
        """How the flow of `config` and `checkpoint` differs from the flow that was fitted; None if it does not."""
        if checkpoint != self.checkpoint:
            return f"the checkpoint is {checkpoint}, not {self.checkpoint}"
        if (wanted := config.guidance_recipe()) != [*self.guides]:
            return f"the guidance is {recipe_words(wanted)}, not {recipe_words(self.guides)}"
        return None

    def step(self) -> Step:
        """The solver with the fitted options."""
        return adams(self.order, self.corrector, self.clock, shifts=self.shifts)


def with_fitted_grid(config: SamplingConfig, run: RunFolder, checkpoint: str) -> SamplingConfig:
    """The config with the grid and the solver that were fitted to this checkpoint, guidance and number of steps.

    The config is returned unchanged if there is no such grid, and if the caller chose a solver, a grid or a schedule.
    One line is logged that describes what is used.
    """
    found = read_fitted_grids(run).get(config.steps) if config.may_be_fitted else None
    if found is None:
        logger.info(f"drawing with {config.describe()}")
        return config
    if reason := found.mismatch(config, checkpoint):
        logger.info(f"drawing with {config.describe()}; the fitted grid of {config.steps} steps is not used: {reason}")
        return config
    config = replace(config, step=found.step(), log_snrs=found.log_snrs, solver="adams")
    logger.info(f"drawing with {config.describe()}, fitted to {checkpoint}")
    return config


def read_fitted_grids(run: RunFolder) -> dict[int, FittedGrid]:
    """The fitted grids of a run by number of steps. Raises `UserError` if the file is damaged."""
    if not run.fitted_grids.exists():
        return {}
    content = read_summed_json(run.fitted_grids)
    advice = f"delete {quoted(run.fitted_grids)} and run diffcore tune {quoted(run.path)} again"
    if not isinstance(content, dict):
        raise UserError(f"{run.fitted_grids} does not contain fitted grids; {advice}")
    found = {}
    for steps, values in content.items():
        if not isinstance(values, dict):
            raise UserError(f"{run.fitted_grids}: {steps[:20]!r} does not have the form of a fitted grid; {advice}")
        try:
            fitted = validate(FittedGrid, values, f"{run.fitted_grids}: {steps[:20]}")
        except UserError as error:
            first = str(error).partition("; ")[0]  # a file of another version would have one for each key
            raise UserError(f"{first}; {advice}") from None
        if steps != str(len(fitted.log_snrs)):
            raise UserError(f"{run.fitted_grids}: {len(fitted.log_snrs)} levels for {steps[:20]!r} steps; {advice}")
        found[len(fitted.log_snrs)] = fitted
    return found


def write_fitted_grid(run: RunFolder, steps: int, fitted: FittedGrid | None) -> None:
    """Store the grid for this number of steps, in place of an earlier one. None deletes the earlier one."""
    known = read_fitted_grids(run)
    known.pop(steps, None)
    if fitted is not None:
        known[steps] = fitted
    write_summed_json(
        run.fitted_grids, {str(steps): json.loads(entry.model_dump_json()) for steps, entry in known.items()}
    )
