"""What a plugin can offer. Entry points in the group `diffcore.plugins` name modules with these hooks.

Hooks that return records offer parts; hooks whose names begin with `diffcore_run_` are called when something happens
in a run. Their arguments are paths and plain values, so a plugin that listens needs nothing of the core.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pluggy

from diffcore.plugins.records import Command, Component, ExportFormat, Modality, Task

PROJECT = "diffcore"
ENTRY_POINT_GROUP = "diffcore.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def diffcore_modalities() -> Iterable[Modality]:  # type: ignore[empty-body]
    """Kinds of data that `diffcore train --modality NAME` can learn."""


@hookspec
def diffcore_datasets() -> Iterable[Component]:  # type: ignore[empty-body]
    """More data sets, `--data NAME`, for the kinds of data in `modalities`, whose facts their data have."""


@hookspec
def diffcore_denoisers() -> Iterable[Component]:  # type: ignore[empty-body]
    """More networks, `--denoiser NAME`; those for every kind of data read the shape of its states off the space."""


@hookspec
def diffcore_classifiers() -> Iterable[Component]:  # type: ignore[empty-body]
    """More networks for `--task classify`, `--classifier NAME`."""


@hookspec
def diffcore_autoencoders() -> Iterable[Component]:  # type: ignore[empty-body]
    """More networks for `--task encode`, `--autoencoder NAME`."""


@hookspec
def diffcore_tasks() -> Iterable[Task]:  # type: ignore[empty-body]
    """More tasks: what a run trains, `diffcore train --task NAME`."""


@hookspec
def diffcore_schedules() -> Iterable[Component]:  # type: ignore[empty-body]
    """Noise schedules, `--schedule NAME`."""


@hookspec
def diffcore_solvers() -> Iterable[Component]:  # type: ignore[empty-body]
    """Solvers, `diffcore sample RUN --solver NAME`."""


@hookspec
def diffcore_guidance() -> Iterable[Component]:  # type: ignore[empty-body]
    """Decorators of the denoiser, `diffcore sample RUN --guide NAME`."""


@hookspec
def diffcore_text_encoders() -> Iterable[Component]:  # type: ignore[empty-body]
    """What turns the captions of examples into tokens, `diffcore train --text NAME`."""


@hookspec
def diffcore_metrics() -> Iterable[Component]:  # type: ignore[empty-body]
    """More metrics of samples, `diffcore evaluate RUN --metric NAME`."""


@hookspec
def diffcore_loggers() -> Iterable[Component]:  # type: ignore[empty-body]
    """Places that a run's numbers and pictures go to beside its folder, `diffcore train --logger NAME`."""


@hookspec
def diffcore_export_formats() -> Iterable[ExportFormat]:  # type: ignore[empty-body]
    """Formats that runs are written in for other programs, `diffcore export RUN --format NAME`."""


@hookspec
def diffcore_commands() -> Iterable[Command]:  # type: ignore[empty-body]
    """More commands, `diffcore NAME ...`."""


@hookspec
def diffcore_run_started(run: Path, settings: Mapping[str, Any], step: int) -> None:
    """Training begins, or goes on, at `step` in the folder `run`; `settings` as config.json has them."""


@hookspec
def diffcore_run_logged(run: Path, row: Mapping[str, float]) -> None:
    """A line of train_log.jsonl: `step`, `seconds`, `loss`, `learning_rate`, `examples_per_second`."""


@hookspec
def diffcore_run_sampled(run: Path, step: int, path: Path) -> None:
    """A picture of samples was written."""


@hookspec
def diffcore_run_saved(run: Path, step: int, path: Path) -> None:
    """A checkpoint was written."""


@hookspec
def diffcore_run_ended(run: Path, step: int, error: BaseException | None) -> None:
    """Training ended: done or interrupted where `error` is None."""
