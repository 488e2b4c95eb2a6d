"""The evaluation of a run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffcore.api.opened import OpenedRun
from diffcore.errors import UserError
from diffcore.evaluation.evaluate import evaluate as measured
from diffcore.evaluation.evaluate import recipe_of, write_metrics, write_report
from diffcore.evaluation.request import PICTURED, EvaluationRequest
from diffcore.plugins import registry as plugins
from diffcore.plugins.output import Metric
from diffcore.runs.composing import additions, with_options
from diffcore.runs.fitted_grid import with_fitted_grid
from diffcore.runs.folder import RunFolder
from diffcore.runs.generation import example_conditions, unguided_without_conditions
from diffcore.runs.kept_draws import discard_draws, place_of_draws
from diffcore.runs.model import Model, build_additions
from diffcore.runs.particles import require_factor
from diffcore.runs.sampling_config import SamplingConfig, SamplingOptions
from diffcore.runs.settings import validate
from diffcore.states.noise import seed_number
from diffcore.system.distributed import from_leader, leads
from diffcore.system.files import require_writable

logger = logging.getLogger(__name__)


def evaluate(
    run: OpenedRun,
    n: int,
    seed: int,
    metrics: str | Sequence[str] | Mapping[str, Mapping[str, Any]],
    show: Callable[[list[Metric]], None],
    failed: list[str] | None,
    options: SamplingOptions,
) -> list[Metric]:
    """Metrics of a run; `diffcore.api.run.Run.evaluate` describes the arguments."""
    if n < 1:
        raise UserError(f"`n` {n}: evaluate at least 1 sample")
    seed = seed_number(seed)
    _require_used(run.model, run.path, options)
    model, config = run.config(options)
    require_factor(config)
    if sets := next(((guide.name, name) for guide in config.guides for name in guide.asks), None):
        raise UserError(
            f"the guide {sets[0]} sets the {sets[1]} of all samples, and an evaluation draws samples for the {sets[1]} "
            "of each example: evaluate without this guide"
        )
    data, folder = run.data, RunFolder(run.path)
    kept = from_leader(lambda: _can_be_written(run.path, "the metrics are shown, and not kept"))
    if model.task.draws:
        config = with_own_grid(run, model, config)
    wanted = additions(run.settings, "metric") | chosen_metrics(run, metrics)
    built = build_additions(run.registry, "metrics", model.modality.name, wanted, model.codec, data)

    def complain(text: str) -> None:
        logger.warning(text)
        if failed is not None:
            failed.append(text)

    drawn = place_of_draws(folder, run.loaded.checkpoint) if kept else None
    request = EvaluationRequest(
        run.settings, config, n, seed, extra_metrics=built, run=run.path, drawn=drawn, complain=complain
    )
    found = measured(model, data, request)
    if leads():
        show(found)
    if leads() and kept:
        used = config if model.task.draws else None
        write_metrics(folder, found, recipe_of(run.loaded.checkpoint, used, n, seed))
        write_report(folder, model, data, replace(request, n=PICTURED, together=False, drawn=None))
        discard_draws(folder)
    return found


def with_own_grid(run: OpenedRun, model: Model, config: SamplingConfig) -> SamplingConfig:
    """The config with the grid that was fitted to the flow that is followed for the conditions of the run, if any."""
    shown = unguided_without_conditions(model, config, example_conditions(model, 1, config))
    fitted = with_fitted_grid(shown, RunFolder(run.path), run.loaded.checkpoint.name)
    return replace(fitted, guides=config.guides)


def _require_used(model: Model, path: Path, options: SamplingOptions) -> None:
    """Raise `UserError` for an option of drawing where the task of the run draws no samples."""
    computing = {"batch_size", "precision", "compile"}
    unused = [name for name, value in options.items() if value is not None and name not in computing]
    if unused and not model.task.draws:
        raise UserError(
            f"`{unused[0]}` has no effect: {path} has the task {model.task.name}, which draws no samples; leave it out"
        )


def _can_be_written(path: Path, otherwise: str) -> bool:
    """Whether the folder of a run can be written to; a warning says what happens otherwise."""
    try:
        require_writable(path)
    except OSError as error:
        logger.warning(f"{path} cannot be written to ({error.strerror}): {otherwise}")
        return False
    return True


def chosen_metrics(run: OpenedRun, metrics: str | Sequence[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The options of the metrics that are named."""
    named = with_options(metrics)
    offered = run.registry.offered("metrics", run.model.modality.name)
    chosen = {name: plugins.choose(offered, name, "metric") for name in named}
    return {
        name: options if isinstance(options := named[name], part.options)
        else validate(part.options, options, f"the metric {name}")
        for name, part in chosen.items()
    }  # fmt: skip
