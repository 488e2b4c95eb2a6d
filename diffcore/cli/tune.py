"""`diffcore tune RUN --steps N`: fit levels and method to the run's own flow."""

from collections.abc import Sequence

import torch
from pydantic import Field

from diffcore.checkpoints import find_checkpoint
from diffcore.cli.sample import DrawOptions, read_drawing, trained
from diffcore.evaluation import spread_conditions
from diffcore.generation import guided, require_conditions
from diffcore.grids import grid
from diffcore.progress import bar, say
from diffcore.registry import installed
from diffcore.runs import Run
from diffcore.tuned import Tuned, write_tuned
from diffcore.tuning import Flow, flow_of, starting_grids, tune


class Options(DrawOptions):
    steps: int = Field(ge=1, description="How many steps, each an evaluation of the network.")
    trajectories: int = Field(64, ge=2, description="Trajectories of the model to learn from.")
    iterations: int = Field(150, ge=1, description="Steps of learning.")


def main(arguments: Sequence[str]) -> int:
    registry = installed()
    about = "Fit the levels and the method of N steps to a run's own flow; diffcore sample then uses them."
    drawing = read_drawing(Options, arguments, registry, "diffcore tune", about)
    options = drawing.options
    run = Run(options.run)
    _, model, recipe = trained(drawing, registry, tuned=False)
    denoise = guided(model, recipe)

    def flow(first: int, count: int) -> Flow:
        conditions = {name: v.to(model.device) for name, v in spread_conditions(model, count, recipe).items()}
        require_conditions(model, recipe, conditions)
        indices = range(first, first + count)
        space, schedule = model.codec.space, model.schedule
        return flow_of(
            denoise, space, schedule, indices=indices, seed=options.seed, conditions=conditions, device=model.device
        )

    say(f"following {options.trajectories} trajectories accurately")
    held_out_count = max(1, options.trajectories // 3)
    seen, held_out = flow(0, options.trajectories), flow(options.trajectories, held_out_count)
    with bar("tuning") as report:
        starts = starting_grids(model.schedule, options.steps)
        found = tune(
            seen, held_out, starts, iterations=options.iterations, after_iteration=lambda done: report(done, "")
        )
    with torch.no_grad():
        own = grid(recipe.grid, model.schedule, options.steps)
        untuned_error = held_out.errors(recipe.step, own).median().item()
        error = held_out.errors(found.method.step(), found.log_snrs).median().item()
    result = Tuned(
        log_snrs=tuple(found.log_snrs.tolist()),
        **vars(found.method),
        error=error,
        untuned_error=untuned_error,
        guidance=recipe.guidance,
        checkpoint=find_checkpoint(run, options.checkpoint).name,
        seed=options.seed,
    )
    write_tuned(run, result)
    say(f"error on new noise: {error:.2e}, {untuned_error:.2e} untuned; kept in {run.tuned}")
    say(f"diffcore sample {run.path} --steps {options.steps} now uses it")
    return 0
