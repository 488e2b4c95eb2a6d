"""Fitting a time grid to a run."""

from collections.abc import Callable

from diffcore.api.opened import OpenedRun
from diffcore.errors import UserError
from diffcore.runs import tuning
from diffcore.runs.fitted_grid import read_fitted_grids, write_fitted_grid
from diffcore.runs.folder import RunFolder
from diffcore.runs.model import require_flow
from diffcore.runs.sampling_config import GuidanceOptions, SamplingOptions
from diffcore.system.files import require_writable
from diffcore.system.progress import bar


def tune(
    run: OpenedRun,
    steps: int,
    trajectories: int,
    iterations: int,
    seed: int,
    show: Callable[[tuning.Tuning], None],
    options: GuidanceOptions,
) -> tuning.Tuning:
    """A grid that is fitted to a run and kept; `diffcore.api.run.Run.tune` describes the arguments."""
    if others := options.keys() - GuidanceOptions.__annotations__.keys():
        raise TypeError(f"tune() takes no {sorted(others)[0]!r}: solver, grid and schedule are what it fits")
    for name, value, least in (("trajectories", trajectories, 1), ("iterations", iterations, 0)):
        if value < least:
            raise UserError(f"`{name}` {value}: write a whole number, {least} or larger")
    model, config = run.config(SamplingOptions(steps=steps, **options))  # type: ignore[typeddict-item]
    require_flow(model, "`tune`", run.path)
    if not config.may_be_fitted:
        raise UserError("a fitted grid is found again by the names of its `guides`: tune with names, not functions")
    folder = RunFolder(run.path)
    read_fitted_grids(folder)  # a damaged file is known before the work
    require_writable(run.path)
    with bar("tuning") as report:
        found = tuning.tune(
            model,
            config,
            run.loaded.checkpoint.name,
            trajectories=trajectories,
            iterations=iterations,
            seed=seed,
            after_iteration=lambda done: report(done, "of the iterations"),
        )
    show(found)
    write_fitted_grid(folder, steps, found.fitted)
    return found
