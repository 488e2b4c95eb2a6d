"""A scheduler of diffusers as a solver: it steps itself, so samples are those of its pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import diffusers
import torch
from torch import Tensor

from diffcore.denoising.denoiser import Prediction
from diffcore.errors import UserError
from diffcore.sampling.solvers import Evaluate, Move, Step
from diffcore.states.level import Level
from diffcore_diffusers import schedulers, tables
from diffcore_diffusers.networks.constructing import plain
from diffcore_diffusers.options.scheduler import SchedulerOptions
from diffcore_diffusers.options.tables import BetaTableOptions

_FAR = 0.9
"""Sampling must begin with more noise than this, as schedulers begin with pure noise."""


def scheduler(options: SchedulerOptions) -> Step:
    """A solver that takes the steps of a scheduler of diffusers, whatever the time grid is.

    The denoiser is evaluated at the timesteps of the scheduler, and what it predicts is passed on to `scheduler.step`.
    So also what no solver of diffcore does is done: clipping, levels between those of the table, and the schedulers'
    own ways to begin and to end. The first state is noise times `init_noise_sigma`.

    Raises `UserError` for a configuration that the scheduler refuses, for one that draws noise, and, when samples are
    drawn, for samples that do not begin with noise, such as variations.
    """
    config = {**options.config, "_class_name": options.scheduler}
    view = schedulers.read(config, "`sample.solver.config`", as_diffusers=True).parameterisation
    table = BetaTableOptions(**{key: config[key] for key in BetaTableOptions.model_fields if key in config})
    schedule = tables.schedule(table)
    new(options)

    def level_at(timestep: float) -> Level:
        level = schedule.level(schedule.log_snr(torch.tensor(timestep / (tables.length(table) - 1)).double()))
        return cast(Level, level.map(Tensor.item))

    def step(evaluate: Evaluate, x: Tensor, move: Move) -> Tensor:
        if not move.index:
            if move.now.sigma / move.now.total < _FAR:
                raise UserError("the solver hf-scheduler begins with noise alone; choose another `solver` here")
            own = new(options)
            with _refusing(options, f" or {move.steps} steps"):
                own.set_timesteps(move.steps)
            move.history[:] = [own, iter(_shares(own.timesteps.tolist(), move.steps))]
            begin: Any = own.init_noise_sigma
            x = x * (begin / move.now.sigma)
        else:
            own = move.history[0]
            x = x * _scale(own, move.now)
        for timestep in next(move.history[1]):
            at = torch.tensor(timestep)
            prediction: Prediction = evaluate(own.scale_model_input(x, at), level_at(timestep))
            with _refusing(options, f" or {move.steps} steps"):
                x = own.step(getattr(prediction, view), at, x, return_dict=False)[0]
        return x / _scale(own, move.next)

    return step


def new(options: SchedulerOptions) -> Any:
    """The scheduler. Raises `UserError` if it refuses its configuration."""
    config = {key: value for key, value in options.config.items() if key != "trained_betas" or value}  # [] means none
    with _refusing(options):
        return getattr(diffusers, options.scheduler).from_config(config)


@contextmanager
def _refusing(options: SchedulerOptions, more: str = "") -> Iterator[None]:
    """Raise `UserError` where a scheduler cannot do with its configuration what the block asks for.

    `more` is what else may be wrong. Schedulers look at many of their options only when they step.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, AttributeError) as error:
        raise UserError(
            f"the scheduler {options.scheduler} refuses its configuration, `sample.solver.config`{more}: {plain(error)}"
        ) from None


def _scale(own: Any, level: Level) -> float:
    """How many times larger the states of the scheduler are at a level than x = alpha x0 + sigma eps.

    Those of Euler's and Heun's methods are x0 + (sigma / alpha) eps.
    """
    return 1 / level.alpha if own.init_noise_sigma != 1 else 1.0


def _shares(timesteps: list[float], steps: int) -> list[list[float]]:
    """The evaluations of a scheduler in as many parts as there are steps, each of which has at least one."""
    bounds = [round(len(timesteps) * number / steps) for number in range(steps + 1)]
    return [timesteps[begin:end] for begin, end in pairwise(bounds)]
