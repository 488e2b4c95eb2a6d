"""Compute the metrics of a trained model, and write the report of the run."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffcore.errors import RAISED_BY_PLUGINS, UserError, quoted, told
from diffcore.evaluation.page import page
from diffcore.evaluation.report import curve, data_section, facts_table, folded, metrics_table, preformatted
from diffcore.evaluation.request import EvaluationRequest
from diffcore.plugins.building import part_of, require_metrics
from diffcore.plugins.data import Data
from diffcore.plugins.output import Metric, Picture
from diffcore.runs.checkpoints import weights_digest
from diffcore.runs.composing import as_toml
from diffcore.runs.data_record import read_record
from diffcore.runs.folder import RunFolder, provenance, read_log
from diffcore.runs.guides import recipe_words
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.system.files import is_number, read_json, write_atomically, write_json

logger = logging.getLogger(__name__)


def evaluate(model: Model, data: Data, request: EvaluationRequest) -> list[Metric]:
    """The metrics that the task of the model has, with distinct names.

    With several processes, all call this at once; the leader gets all metrics, and the others maybe none. Raises
    `NothingToEvaluateError` if there is nothing to compute, and `UserError` if the task returns anything but metrics.
    """
    task = model.task
    if request.extra_metrics and not task.draws:
        left_out = ", ".join(request.extra_metrics)
        logger.warning(f"the task {task.name} draws no samples, so the metrics of samples are left out: {left_out}")
        request = replace(request, extra_metrics={})
    metrics = task.evaluate(model, data, request)
    require_metrics(metrics, f"of the task {task.name}")
    return with_distinct_names(metrics)


def with_distinct_names(metrics: Sequence[Metric]) -> list[Metric]:
    """The same metrics, but a name that occurred before becomes `NAME (2)` and so on, which is logged as a warning."""
    names = {metric.name for metric in metrics}
    taken: set[str] = set()
    found = []
    for metric in metrics:
        name, number = metric.name, 1
        while name in taken or (number > 1 and name in names):
            number += 1
            name = f"{metric.name} ({number})"
        if number > 1:
            logger.warning(f"two metrics have the name {metric.name!r}: the later one is called {name!r} here")
        taken.add(name)
        found.append(replace(metric, name=name))
    return found


MOST_EVALUATIONS = 50
"""evaluations.json keeps at most so many evaluations, the last ones."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one evaluation and its recipe: number of samples, seed, checkpoint, solver, levels, guidance."""

    recipe: Mapping[str, Any]
    metrics: Sequence[Metric]


def recipe_of(checkpoint: Path, config: SamplingConfig | None, n: int, seed: int) -> dict[str, Any]:
    """The recipe of an evaluation, as values of JSON. A task that draws no samples has no `config`."""
    values = {"n": n, "seed": seed, "checkpoint": checkpoint.name, "weights": weights_digest(checkpoint)}
    return values | (config.recipe() if config is not None else {})


def write_metrics(run: RunFolder, metrics: Sequence[Metric], recipe: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write the metrics to metrics.json of the run, and add them to evaluations.json.

    They replace the metrics of an earlier evaluation with the same recipe, and no others. Values that are not finite,
    or larger than 1e300, become null.
    """
    try:
        kept = [found for found in read_evaluations(run) if found.recipe != recipe]
    except UserError as error:
        logger.warning(f"{error}; it is written anew")
        kept = []
    kept = [*kept, Evaluation(dict(recipe), metrics)][-MOST_EVALUATIONS:]
    write_json(run.evaluations, [{"recipe": dict(e.recipe), "metrics": _rows(e.metrics)} for e in kept])
    write_json(run.metrics, _rows(metrics))


def read_evaluations(run: RunFolder) -> list[Evaluation]:
    """All evaluations that were kept, the last one at the end. Raises `UserError` if the file is damaged."""
    if not run.evaluations.exists():
        metrics = read_metrics(run)
        return [Evaluation({}, metrics)] if metrics else []
    content = read_json(run.evaluations)
    rows: list[Any] = content if isinstance(content, list) else [None]
    if not all(isinstance(row, dict) and isinstance(row.get("recipe"), dict) for row in rows):
        raise UserError(f"{run.evaluations} does not contain evaluations")
    return [Evaluation(row["recipe"], _metrics(row.get("metrics"), run.evaluations, run)) for row in rows]


def _rows(metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    rows = [vars(metric) for metric in metrics]
    return [row | {"value": row["value"] if is_number(row["value"]) else None} for row in rows]


def read_metrics(run: RunFolder) -> list[Metric]:
    """The metrics of the last evaluation; empty if there was none. Raises `UserError` if the file is damaged."""
    return _metrics(read_json(run.metrics), run.metrics, run) if run.metrics.exists() else []


def _metrics(content: Any, path: Path, run: RunFolder) -> list[Metric]:
    rows: list[Any] = content if isinstance(content, list) else [None]
    if not all(
        isinstance(row, dict)
        and row.keys() == {"name", "value", "meaning"}
        and isinstance(row["name"], str)
        and isinstance(row["meaning"], str)
        and (row["value"] is None or is_number(row["value"]))
        for row in rows
    ):
        raise UserError(f"{path} does not contain metrics; write it again with diffcore evaluate {quoted(run.path)}")
    return [Metric(row["name"], math.nan if row["value"] is None else row["value"], row["meaning"]) for row in rows]


def write_report(run: RunFolder, model: Model, data: Data, request: EvaluationRequest) -> list[str]:
    """Write report.html: metrics, the pictures and sections of the task, the loss, and the configuration.

    A part that cannot be made, such as pictures by a writer that raises an exception, is replaced by the reason, which
    is logged as a warning. Returns these reasons.
    """
    failed: list[str] = []

    def attempted(title: str, make: Callable[[], list[tuple[str, str]]]) -> list[tuple[str, str]]:
        try:
            return make()
        except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception; the rest is still written
            failed.append(f"the report has no {title.lower()}: {told(error)}")
            logger.warning(failed[-1])
            return [(title, preformatted(told(error)))]

    task = model.task

    def sections() -> list[tuple[str, str]]:
        assert task.report is not None
        return list(task.report(model, data, request))

    log = read_log(run)
    about: dict[str, object] = {**provenance(run)}
    if log:
        last = log[-1]
        about |= {
            "steps": last["step"],
            "minutes of training": round(last.get("seconds", 0) / 60, 2),
            "examples a second": last.get("examples_per_second", "unknown"),
        }
    losses = [(row["step"], row["loss"]) for row in log]
    shown = [
        *attempted("Metrics", lambda: _metrics_sections(run)),
        *(attempted("Pictures", lambda: pictures_of(model, data, request)) if task.pictures is not None else ()),
        *(attempted(f"Sections of the task {task.name}", sections) if task.report is not None else ()),
        ("Loss", curve(losses, "steps", task.loss_label)),
        *([("Data", data_section(record))] if (record := read_record(run)) is not None else []),
        ("Run", facts_table(about)),
        ("Configuration", _again(run, model.modality.name) + preformatted(as_toml(request.settings))),
    ]
    write_atomically(
        run.report, page(f"{model.modality.name}: {run.path.name}", shown).encode(errors="backslashreplace")
    )
    return failed


def pictures_of(model: Model, data: Data, request: EvaluationRequest) -> list[tuple[str, str]]:
    """The title and the HTML of each picture of the task; none if it has none.

    Raises `UserError` if the writer returns something else than text.
    """
    if model.task.pictures is None:
        return []
    writer = part_of(model.modality, "writer", model.codec)
    htmls = [
        (each.title, writer.html(each.samples, each.columns, each.captions, **_optional_arguments(each, writer)))
        for each in model.task.pictures(model, data, request)
    ]
    if wrong := [type(html).__name__ for _, html in htmls if not isinstance(html, str)]:
        raise UserError(f"`html` of the writer of {model.modality.name} must return a str, not {wrong[0]}")
    return htmls


def _again(run: RunFolder, modality: str) -> str:
    """The commands that train a run with the same settings, as HTML."""
    commands = f"diffcore config {quoted(run.path)} > run.toml\ndiffcore train --modality {modality} --config run.toml"
    return f"<p>To train a run with these settings:</p>{preformatted(commands)}"


def _optional_arguments(picture: Picture, writer: Any) -> dict[str, Any]:
    """The arguments for rows that are trajectories, and for writers that show real examples.

    Writers without them need not accept these arguments.
    """
    arguments: dict[str, Any] = {"trajectories": True} if picture.trajectories else {}
    if picture.real is not None and getattr(writer, "shows_real", False):
        arguments["real"] = picture.real()
    return arguments


def _metrics_sections(run: RunFolder) -> list[tuple[str, str]]:
    """A section for each evaluation, the last one first."""
    found = read_evaluations(run)[::-1]
    if not found:
        return [("Metrics", metrics_table([]))]
    sections = [("Metrics", _recipe_line(found[0]) + metrics_table(found[0].metrics))]
    if found[1:]:
        tables = "".join(_recipe_line(each) + metrics_table(each.metrics) for each in found[1:])
        sections.append(("Earlier metrics", folded(f"{len(found) - 1} other evaluations", tables)))
    return sections


def _recipe_line(evaluation: Evaluation) -> str:
    """The recipe of an evaluation as HTML."""
    shown = {name: value for name, value in evaluation.recipe.items() if name not in ("log_snrs", "weights")}
    if "log_snrs" in evaluation.recipe:
        shown["grid"] = "fitted"
    if isinstance(guides := shown.get("guidance"), list):
        shown["guidance"] = recipe_words(guides)
    words = ", ".join(f"{name} {_shown(value)}" for name, value in shown.items())
    return f"<p>{escape(words)}</p>" if words else ""


def _shown(value: Any) -> str:
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)[:40]
