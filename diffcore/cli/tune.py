"""`diffcore tune RUN --steps N`: fit N levels and a method to a run's own flow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field

from diffcore.cli.options import DrawOptions, run_of, sampling_of, trust_field
from diffcore.cli.screen import say
from diffcore.cli.selectors import read, take
from diffcore.errors import UserError, quoted
from diffcore.plugins import registry as plugins
from diffcore.runs.folder import RunFolder

if TYPE_CHECKING:
    from diffcore.runs.tuning import Tuning


class Options(DrawOptions):
    """The options of `diffcore tune`."""

    steps: int = Field(ge=1, description="How many steps, each an evaluation of the network.")
    trajectories: int = Field(64, ge=2, description="Trajectories of the model to learn from.")
    iterations: int = Field(150, ge=1, description="Steps of learning.")
    trust: bool = trust_field("read files")
    grid: Annotated[None, tyro.conf.Suppress] = None
    particles: Annotated[None, tyro.conf.Suppress] = None


CHOSEN = {
    "solver": "the method",
    "grid": "the levels",
    "schedule": "levels of the schedule of training",
    "particles": "one trajectory for each sample",
}
"""What tuning chooses, by the flag that would."""


def main(arguments: Sequence[str]) -> int:
    registry = plugins.installed()
    for flag, what in CHOSEN.items():
        if take(arguments, flag)[1] is not None:
            raise UserError(f"diffcore tune chooses {what} itself: leave out --{flag}")
    about = "Fit the levels and the method of N steps to a run's own flow; diffcore sample --steps N then uses them."
    chosen = read(Options, arguments, registry, "diffcore tune", about, one=())
    options = chosen.options
    drawing = {name: value for name, value in sampling_of(chosen).items() if name not in ("steps", *CHOSEN)}

    def show(found: "Tuning") -> None:
        say(f"error on new noise: {found.error:.2e} fitted, {found.default_error:.2e} as the run draws")

    found = run_of(options, registry).tune(
        options.steps,
        trajectories=options.trajectories,
        iterations=options.iterations,
        seed=options.seed,
        show=show,
        **drawing,  # type: ignore[arg-type]
    )
    run, steps = RunFolder(options.run), options.steps
    if found.fitted is None:
        say(f"nothing is kept, and diffcore sample {quoted(run.path)} --steps {steps} draws as before")
    else:
        say(f"kept in {run.fitted_grids}")
        say(f"diffcore sample {quoted(run.path)} --steps {steps} now uses it, with the same checkpoint and guidance")
    return 0
