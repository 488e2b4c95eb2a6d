"""Metrics of samples that any program has made."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffcore.api.modes import in_own_modes
from diffcore.api.run import Run
from diffcore.api.showing import show_messages
from diffcore.errors import UserError
from diffcore.evaluation.files import judged
from diffcore.plugins import registry as plugins
from diffcore.plugins.building import of_samples, part_of
from diffcore.plugins.output import Metric
from diffcore.plugins.registry import Registry
from diffcore.runs.composing import additions, compose, with_options
from diffcore.runs.model import build_additions, build_data
from diffcore.runs.settings import RunSettings

logger = logging.getLogger(__name__)

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A file or a folder, or several."""


@in_own_modes
def judge(
    files: Files,
    modality: str | None = None,
    *,
    run: Run | str | os.PathLike[str] | None = None,
    preset: str | None = None,
    data: str | Mapping[str, Any] | None = None,
    metrics: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
) -> list[Metric]:
    """The metrics of samples in files, as `evaluate` computes them for samples of a run, whatever program made them.

    Files that cannot be read are counted and named in a warning.

    Args:
        files: A file, a folder, or several; of folders, all files that the kind of data reads are taken.
        modality: The kind of data.
        run: In place of `modality`: a run, whose data the samples are compared with.
        preset: The preset that chooses the data set, as in `train`.
        data: The data set that the samples are compared with, by name, or its options, as in `train`.
        metrics: More metrics, by name, or by name with their options.

    Raises:
        UserError: If no file can be read, or if the kind of data has no reader or no evaluator.
    """
    show_messages()
    paths = [Path(files)] if isinstance(files, str | os.PathLike) else [Path(each) for each in files]
    registry = plugins.installed()
    if (run is None) == (modality is None):
        raise UserError("`modality` and `run` are two ways to say what samples are compared with; give one")
    if run is None:
        options = {"name": data} if isinstance(data, str) else dict(data or {})
        chosen = {"data": str(options["name"])} if "name" in options else {}
        over = {"data": options, "metric": with_options(metrics)}
        over = {name: value for name, value in over.items() if value}
        return of_settings(
            paths, compose(registry, str(modality), preset, None, chosen, "the arguments", over=over), registry
        )
    if preset is not None or data is not None:
        raise UserError("`preset` and `data` choose what samples are compared with, and so does `run`; give one")
    return of_run(paths, run if isinstance(run, Run) else Run(Path(run)), metrics)


def of_settings(paths: Sequence[Path], settings: RunSettings, registry: Registry) -> list[Metric]:
    """The metrics of the samples in files, compared with the data set of the settings."""
    modality = registry.modality(settings.modality)
    data = build_data(settings, registry)
    codec = part_of(modality, "codec", data.facts)
    more = build_additions(registry, "metrics", modality.name, additions(settings, "metric"), codec, data)
    return _told(*judged(modality, codec, data, paths, more))


def of_run(
    paths: Sequence[Path], run: Run, metrics: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = ()
) -> list[Metric]:
    """The metrics of the samples in files, compared with the data of a run."""
    from diffcore.api.evaluating import chosen_metrics

    model, data = run.model, run.data
    wanted = additions(run.settings, "metric") | chosen_metrics(run, metrics)
    more = build_additions(run.registry, "metrics", model.modality.name, wanted, model.codec, data)
    return _told(*judged(model.modality, of_samples(model.codec), data, paths, more))


def _told(n: int, found: list[Metric]) -> list[Metric]:
    return [*found, Metric("samples", n, "read from files")]
