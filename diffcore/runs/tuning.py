"""Fit a time grid to a run: the levels and the solver options of N steps with the smallest error."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from diffcore.denoising.estimate import self_conditioned
from diffcore.errors import UserError
from diffcore.runs.fitted_grid import FittedGrid
from diffcore.runs.generation import (
    draw_mask,
    example_conditions,
    guided,
    require_conditions,
    unguided_without_conditions,
)
from diffcore.runs.model import Model, last_log_snr
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.sampling.grid_fitting import Flow, FreshNoiseError, fit_grid, flow_of, starting_grids
from diffcore.sampling.solvers import adams
from diffcore.sampling.timesteps import grid

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuning:
    """The result of fitting a time grid.

    * `fitted`: the grid, or None if the solver and the grid of the run's settings are as accurate.
    * `error`, `default_error`: geometric mean of |x - x_accurate| / sqrt(degrees of freedom) over trajectories that
      were not used for fitting, with the fitted grid and with the settings of the run.
    """

    fitted: FittedGrid | None
    error: float
    default_error: float


def tune(
    model: Model,
    config: SamplingConfig,
    checkpoint: str,
    *,
    trajectories: int = 64,
    iterations: int = 150,
    seed: int = 0,
    after_iteration: Callable[[float], None] = lambda fraction: None,
) -> Tuning:
    """Fit `config.steps` levels and solver options to the flow of the model with the guidance of `config`.

    The fit uses `trajectories` accurate trajectories, and the comparison another third of that number.
    `after_iteration` receives the fraction of the iterations that is done. Raises `UserError` for a single step, and if
    guidance needs conditions for which there are no example values.
    """
    if config.steps == 1:
        raise UserError("a single step has no levels to fit; tune at least 2 `steps`")
    if unguided_without_conditions(model, config, example_conditions(model, 1, config)) != config:
        raise UserError(
            "guidance needs values of the conditions, and tuning has none for conditions that are numbers; tune with "
            "`guidance` 1 and without `classifier` or other such guides"
        )
    denoise, last = guided(model, config), last_log_snr(model.codec)

    def flow(first: int, count: int) -> Flow:
        conditions = example_conditions(model, count, config)
        require_conditions(model, config, conditions)
        indices = range(first, first + count)
        mask = draw_mask(model, indices, conditions, seed, guides=config.guides)
        return flow_of(
            denoise,
            model.codec.space,
            model.schedule,
            indices=indices,
            seed=seed,
            conditions={name: value.to(model.device) for name, value in conditions.items()},
            mask=None if mask is None else mask.to(model.device),
            device=model.device,
            last=last,
            remember=self_conditioned(model.denoiser),
        )

    logger.info(f"computing {trajectories} accurate trajectories")
    seen, held_out = flow(0, trajectories), flow(trajectories, max(1, trajectories // 3))
    starts = starting_grids(model.schedule, config.steps, last)
    found = fit_grid(seen, held_out, starts, iterations=iterations, after_iteration=after_iteration)
    own = grid(config.grid, model.schedule, config.steps, last)
    try:
        default = held_out.score(config.step, own)
    except FreshNoiseError:
        logger.info(
            "the solver of the run draws fresh noise, so it follows no trajectory: comparing with adams instead"
        )
        default = held_out.score(adams(), own)
    error = held_out.score(found.method.step(), found.log_snrs)
    if error >= default:
        return Tuning(None, math.exp(error), math.exp(default))
    fitted = FittedGrid(
        log_snrs=tuple(found.log_snrs.tolist()),
        **vars(found.method),
        error=math.exp(error),
        default_error=math.exp(default) if default < math.inf else None,
        checkpoint=checkpoint,
        seed=seed,
        guides=tuple(config.guidance_recipe()),
    )
    return Tuning(fitted, math.exp(error), math.exp(default))
