"""Time grids that were fitted to a run, in its file fitted_grids.json: levels and a method by number of steps."""

import json
import logging
import math
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from diffcore.errors import UserError
from diffcore.names import Clock
from diffcore.plugins.records import Settings
from diffcore.runs.folder import RunFolder
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.runs.settings import validate
from diffcore.sampling.solvers import Step, adams
from diffcore.system.files import read_json, write_json

logger = logging.getLogger(__name__)

FARTHEST = 200.0
"""No log-SNR of use is larger: sigma / alpha would be e^-100."""


class FittedGrid(Settings):
    """Levels and the options of `diffcore.sampling.solvers.adams`, how they were found, how well they follow the flow.

    `error` and, with the run's own solver and grid, `default_error` are geometric means of |x - x_accurate| /
    sqrt(degrees of freedom) over trajectories that were not used to fit; None where that is not finite. The flow that
    was followed is that of the `checkpoint` with the guidance that the other fields describe, along the run's own
    schedule: `mismatch` says where another one differs.
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
    guidance: float
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    classifier: str | None = None
    classifier_weight: float = 1.0
    weak: str | None = None
    autoguidance: float = 2.0
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

    def mismatch(self, config: SamplingConfig, checkpoint: str) -> str | None:
        """What differs between the flow that the grid was fitted to and that of `config` and `checkpoint`, or None."""
        if checkpoint != self.checkpoint:
            return f"the checkpoint is {checkpoint}, not {self.checkpoint}"
        wanted = guidance_of(config)
        fitted = {name: getattr(self, name) for name in wanted}
        differing = [f"{name} is {wanted[name]}, not {fitted[name]}" for name in wanted if wanted[name] != fitted[name]]
        return "; ".join(differing) or None

    def step(self) -> Step:
        """The solver."""
        return adams(self.order, self.corrector, self.clock, shifts=self.shifts)


def guidance_of(config: SamplingConfig) -> dict[str, Any]:
    """What a config says of guidance, as the fields of `FittedGrid`; options without effect have their defaults."""
    values: dict[str, Any] = {"guidance": config.guidance}
    if config.is_guided:
        values |= {"guidance_interval": config.guidance_interval, "guidance_rescale": config.guidance_rescale}
    if config.classifier is not None:
        values |= {"classifier": config.classifier_source, "classifier_weight": config.classifier_weight}
    if config.weak is not None:
        values |= {"weak": config.weak_source, "autoguidance": config.autoguidance}
    defaults = {name: FittedGrid.model_fields[name].default for name in _GUIDANCE}
    return {**defaults, **values}


_GUIDANCE = ("guidance_interval", "guidance_rescale", "classifier", "classifier_weight", "weak", "autoguidance")


def with_fitted_grid(config: SamplingConfig, run: RunFolder, checkpoint: str) -> SamplingConfig:
    """The config with the grid and the solver that were fitted to this checkpoint, guidance and number of steps.

    Where there is none, or where the caller chose a solver, a grid or a schedule, the config is returned as it is.
    What is used is logged in one line.
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
    """The fitted grids of a run by their number of steps. Raises `UserError` where the file is damaged."""
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


def write_fitted_grid(run: RunFolder, steps: int, tuned: FittedGrid | None) -> None:
    """Keep `tuned` for so many steps, in place of what was found before; with None, keep nothing for them."""
    known = read_fitted_grids(run)
    known.pop(steps, None)
    if tuned is not None:
        known[steps] = tuned
    write_json(run.fitted_grids, {str(steps): json.loads(entry.model_dump_json()) for steps, entry in known.items()})
