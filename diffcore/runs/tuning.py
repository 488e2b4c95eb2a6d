"""Fitting a time grid to a run: the levels and the method of N steps that follow its own flow best."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from diffcore.errors import UserError
from diffcore.runs.fitted_grid import FittedGrid, guidance_of
from diffcore.runs.generation import as_asked, draw_mask, example_conditions, guided, require_conditions
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.sampling.grid_fitting import Flow, FreshNoiseError, fit_grid, flow_of, starting_grids
from diffcore.sampling.solvers import adams
from diffcore.sampling.timesteps import grid

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuning:
    """What fitting found.

    * `fitted`: the grid, or None where the run's own way of drawing is as good.
    * `error`, `default_error`: mean errors |x - x_accurate| / sqrt(degrees of freedom) of trajectories that were not
      used to fit, with the fitted grid and as the run draws.
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
    after_iteration: Callable[[float], None] = lambda share: None,
) -> Tuning:
    """Fit `config.steps` levels and a method to the flow of the model with the guidance of `config`.

    `trajectories` of the model are followed accurately to fit to, and a third as many to compare on.
    `after_iteration` receives the fraction that is done. Raises `UserError` for a single step, and where guidance
    needs conditions that the model has no examples of.
    """
    if config.steps == 1:
        raise UserError("a single step has no levels that could be moved: tune at least 2 `steps`")
    if as_asked(model, config, example_conditions(model, 1, config)) != config:
        raise UserError(
            "guidance needs values of conditions, and tuning asks for no numbers: tune with `guidance` 1 and without "
            "`classifier`"
        )
    denoise = guided(model, config)

    def flow(first: int, count: int) -> Flow:
        conditions = example_conditions(model, count, config)
        require_conditions(model, config, conditions)
        indices = range(first, first + count)
        mask = draw_mask(model, indices, conditions, seed)
        return flow_of(
            denoise,
            model.codec.space,
            model.schedule,
            indices=indices,
            seed=seed,
            conditions={name: value.to(model.device) for name, value in conditions.items()},
            mask=None if mask is None else mask.to(model.device),
            device=model.device,
        )

    logger.info(f"following {trajectories} trajectories accurately")
    seen, held_out = flow(0, trajectories), flow(trajectories, max(1, trajectories // 3))
    starts = starting_grids(model.schedule, config.steps)
    found = fit_grid(seen, held_out, starts, iterations=iterations, after_iteration=after_iteration)
    own = grid(config.grid, model.schedule, config.steps)
    try:
        default = held_out.score(config.step, own)
    except FreshNoiseError:
        logger.info("the run's solver draws fresh noise and follows no trajectory: adams is compared with instead")
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
        **guidance_of(config),
    )
    return Tuning(fitted, math.exp(error), math.exp(default))
