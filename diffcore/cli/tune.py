"""`diffcore tune RUN --steps N`: fit levels and method to the run's own flow."""

import math
from collections.abc import Sequence
from typing import Annotated

import tyro
from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.cli.sample import Drawing, DrawOptions, take, trained
from diffcore.cli.screen import say
from diffcore.errors import UserError
from diffcore.evaluation.evaluate import example_conditions
from diffcore.plugins.registry import installed
from diffcore.runs.checkpoints import EMA, newest_sound, read_tensors
from diffcore.runs.fitted_grid import FittedGrid, read_fitted_grids, write_fitted_grid
from diffcore.runs.folder import Run, open_run
from diffcore.runs.generation import as_asked, draw_mask, guided, require_conditions
from diffcore.sampling.grid_fitting import Flow, FreshNoiseError, fit_grid, flow_of, starting_grids
from diffcore.sampling.solvers import adams
from diffcore.sampling.timesteps import grid
from diffcore.system.progress import bar


class Options(DrawOptions):
    steps: int = Field(ge=1, description="How many steps, each an evaluation of the network.")
    trajectories: int = Field(64, ge=2, description="Trajectories of the model to learn from.")
    iterations: int = Field(150, ge=1, description="Steps of learning.")
    grid: Annotated[None, tyro.conf.Suppress] = None


CHOSEN = {"solver": "the method", "grid": "the levels", "schedule": "levels of the schedule of training"}
"""What tuning chooses, by the flag that would."""


def main(arguments: Sequence[str]) -> int:
    registry = installed()
    for flag, what in CHOSEN.items():
        if take(list(arguments), flag)[1] is not None:
            raise UserError(f"diffcore tune chooses {what} itself: leave out --{flag}")
    about = "Fit the levels and the method of N steps to a run's own flow; diffcore sample then uses them."
    options = parse(Options, arguments, "diffcore tune", about)
    run, steps = Run(options.run), options.steps
    if steps == 1:
        raise UserError("a single step has no levels that could be moved: tune at least --steps 2")
    open_run(options.run, registry)
    checkpoint, _ = newest_sound(run, lambda path: read_tensors(path, EMA), options.checkpoint)
    options = options.model_copy(update={"checkpoint": checkpoint.name})
    _, model, config = trained(Drawing(options), registry, tuned=False)
    read_fitted_grids(run)  # a damaged file is known before the work
    if as_asked(model, config, example_conditions(model, 1, config)) != config:
        raise UserError(
            "guidance goes by what is asked for, and tuning asks for no numbers: "
            "tune with --guidance 1, no --classifier"
        )
    denoise = guided(model, config)

    def flow(first: int, count: int) -> Flow:
        conditions = example_conditions(model, count, config)
        require_conditions(model, config, conditions)
        indices = range(first, first + count)
        mask = draw_mask(model, indices, conditions, options.seed)
        return flow_of(
            denoise,
            model.codec.space,
            model.schedule,
            indices=indices,
            seed=options.seed,
            conditions={name: value.to(model.device) for name, value in conditions.items()},
            mask=None if mask is None else mask.to(model.device),
            device=model.device,
        )

    say(f"following {options.trajectories} trajectories accurately")
    held_out_count = max(1, options.trajectories // 3)
    seen, held_out = flow(0, options.trajectories), flow(options.trajectories, held_out_count)
    with bar("tuning") as report:
        starts = starting_grids(model.schedule, steps)
        found = fit_grid(
            seen, held_out, starts, iterations=options.iterations, after_iteration=lambda done: report(done, "")
        )
    own = grid(config.grid, model.schedule, steps)
    try:
        default = held_out.score(config.step, own)
    except FreshNoiseError:
        say("the run's own solver draws fresh noise and follows no trajectory: adams stands in for it")
        default = held_out.score(adams(), own)
    tuned = held_out.score(found.method.step(), found.log_snrs)
    said = f"error on new noise: {math.exp(tuned):.2e} tuned, {math.exp(default):.2e} as the run has it"
    if tuned >= default:
        write_fitted_grid(run, steps, None)
        say(f"{said}; nothing is kept, and diffcore sample {run.path} --steps {steps} stays as it was default")
        return 0
    result = FittedGrid(
        log_snrs=tuple(found.log_snrs.tolist()),
        **vars(found.method),
        error=math.exp(tuned),
        default_error=math.exp(default) if default < math.inf else None,
        guidance=config.guidance,
        checkpoint=checkpoint.name,
        seed=options.seed,
    )
    write_fitted_grid(run, steps, result)
    say(f"{said}; kept in {run.fitted_grids}")
    say(f"diffcore sample {run.path} --steps {steps} now uses it")
    return 0
