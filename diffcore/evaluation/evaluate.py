"""Compute the metrics of a trained model, and write the report of the run."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from diffcore.denoising.conditions import Conditions, captions_of
from diffcore.errors import RAISED_BY_PLUGINS, UserError, quoted, told
from diffcore.evaluation.property_metrics import property_metrics
from diffcore.evaluation.report import curve, data_section, facts_table, folded, metrics_table, page, preformatted
from diffcore.plugins.building import part_of, require_metrics
from diffcore.plugins.data import Data
from diffcore.plugins.output import Metric
from diffcore.process.gaussian import perturb
from diffcore.runs.checkpoints import weights_digest
from diffcore.runs.coding import decode, encode
from diffcore.runs.data_record import read_record
from diffcore.runs.folder import RunFolder, provenance, read_log
from diffcore.runs.generation import (
    example_conditions,
    generate,
    generate_together,
    trajectories,
    unguided_without_conditions,
)
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig, known_conditions
from diffcore.sampling.loop import in_batches, levels_of
from diffcore.states.level import Levels
from diffcore.states.noise import Draws, generator_for
from diffcore.system.distributed import by_leader, gathered, leads, rank_slice, world
from diffcore.system.files import is_number, read_json, write_atomically, write_json
from diffcore.system.progress import counter

logger = logging.getLogger(__name__)


MetricFunction = Callable[[Any, Conditions], list[Metric]]
"""A function of samples and their requested conditions that returns metrics."""


Complain = Callable[[str], None]
"""A function that is told what could not be computed."""


def evaluate(
    model: Model,
    config: SamplingConfig,
    data: Data,
    n: int,
    seed: int,
    cache: Path,
    extra_metrics: Mapping[str, MetricFunction] = MappingProxyType({}),
    failed: list[str] | None = None,
) -> list[Metric]:
    """The metrics of `n` samples, the speed of sampling, and the error of samples with scalar targets.

    The conditions of the samples cover the possible values in equal parts. `extra_metrics`, by name, are computed in
    addition to those of the modality. An evaluator or a metric that fails is logged as a warning and left
    out; the text of the warning is added to the list `failed`. With several processes, the leader evaluates the samples
    of all processes, and the others get no metrics of them.

    Raises `UserError` if there are no metrics for the modality.
    """
    made = model.modality.evaluator
    if made is None and not extra_metrics:
        raise UserError(f"the plugin for {model.modality.name} has no metrics; name some with `metrics`")
    logger.info("preparing the evaluation")

    def complain(text: str) -> None:
        logger.warning(text)
        if failed is not None:
            failed.append(text)

    evaluator = None if made is None else by_leader(lambda: _evaluator(model, data, cache, complain))
    conditions = example_conditions(model, n, config)
    plain = unguided_without_conditions(model, config, conditions)
    with counter("sampling", n) as after_batch:
        started = time.perf_counter()
        drawn = generate_together(model, plain, conditions, n, seed, after_batch)
        seconds = time.perf_counter() - started

    def measured() -> list[Metric]:
        assert drawn is not None
        samples = decode(model, drawn.state, drawn.mask)
        return [
            *(_measured(f"of {model.modality.name}", evaluator, samples, conditions, complain) if evaluator else ()),
            *(
                metric
                for name, measure in extra_metrics.items()
                for metric in _measured(name, measure, samples, conditions, complain)
            ),
        ]

    several = f", {world()} processes" if world() > 1 else ""
    return with_distinct_names(
        [
            *(by_leader(measured) or ()),
            Metric("samples", n, f"drawn with {plain.describe()}, seed {seed}"),
            Metric("samples_per_second", n / seconds, f"on {model.device}{several}"),
            *(_of_targets(model, config, evaluator, data, n, seed, complain) if made else ()),
        ]
    )


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


def _measured(
    name: str, metric: MetricFunction, samples: Any, conditions: Conditions, complain: Complain
) -> list[Metric]:
    try:
        found = metric(samples, conditions)
        require_metrics(found, name)
        return found
    except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
        complain(f"the metric {name} failed: {told(error)}")
        return []


def _evaluator(model: Model, data: Data, cache: Path, complain: Complain) -> Any:
    """The evaluator of the modality; None, with a warning, if its code fails. Raises `UserError` where it does."""
    try:
        return part_of(model.modality, "evaluator", model.codec, data, cache)
    except UserError:
        raise
    except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
        complain(f"the evaluator of {model.modality.name} could not be prepared: {told(error)}")
        return None


def _of_targets(
    model: Model, config: SamplingConfig, evaluator: Any, data: Data, n: int, seed: int, complain: Complain
) -> Sequence[Metric]:
    try:
        return property_metrics(model, config, evaluator, data, n, seed)
    except UserError:
        raise
    except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
        complain(f"the values that samples reached could not be measured: {told(error)}")
        return []


LOG_SNRS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
"""The log-SNRs at which a classifier is evaluated, from almost pure noise to almost clean data."""


@torch.no_grad()
def evaluate_classifier(model: Model, data: Data, n: int, seed: int, batch_size: int = 250) -> list[Metric]:
    """The accuracy of a classifier for the conditions of at most `n` held-out examples, at the `LOG_SNRS` of noise.

    For each condition: the negative log-likelihood in nats, the metrics of the condition, and the values of both by
    chance, that is, for the best constant prediction. They do not depend on the size of the batches. A condition that
    none of the examples has is left out. With several processes, each predicts for a part of the examples; the leader
    evaluates all predictions, and the others get no metrics.
    """
    classifier, codec = model.classifier.eval(), model.codec
    held_out = data.examples if data.held_out is None else data.held_out
    order = generator_for(seed, "examined")
    examples = held_out[torch.randperm(len(held_out), generator=order)[:n]]
    source = f"{len(examples)} {'training' if data.held_out is None else 'held-out'} examples"
    batches = list(in_batches(rank_slice(len(examples)), batch_size))
    parts = [encode(model, examples[list(rows)]) for rows in batches]
    values = encode(model, examples).conditions
    seen = encode(model, data.examples[torch.randperm(len(data.examples), generator=order)[: 10 * n]]).conditions

    def mean_metrics(outputs: dict[str, torch.Tensor]) -> dict[str, float]:
        found: dict[str, float] = {}
        for condition in classifier.conditions:
            output, value, head = outputs[condition.name], values[condition.name], classifier.heads[condition.name]
            known = condition.given(value)
            if not known.any():
                continue
            each = {"nll": -head.log_likelihood(output, value)[known], **head.measures(output, value)}
            found |= {f"{condition.name}_{name}": row.double().mean().item() for name, row in each.items()}
        return found

    constants = {
        name: head.best_constant(seen[name]).expand(len(examples), -1) for name, head in classifier.heads.items()
    }
    chance = mean_metrics(constants)
    metrics = []
    noisiest, cleanest = model.schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    log_snrs = [value for value in LOG_SNRS if noisiest <= value <= cleanest]

    def outputs_at(level: Levels) -> list[dict[str, torch.Tensor]]:
        outputs = []
        for rows, batch in zip(batches, parts, strict=True):
            normal = Draws.of(seed, rows).normal("classifier", batch.state)
            x = perturb(batch.state, codec.space.noise(normal, batch.mask), level)
            mask = None if batch.mask is None else batch.mask.to(model.device)
            outputs.append({name: output.cpu() for name, output in classifier(x.to(model.device), level, mask).items()})
        return outputs

    for level, log_snr in zip(levels_of(model.schedule, torch.tensor(log_snrs)), log_snrs, strict=False):
        batches_of_outputs = [output for own in gathered(partial(outputs_at, level)) for output in own]
        if not leads():
            continue
        outputs = {name: torch.cat([output[name] for output in batches_of_outputs]) for name in classifier.heads}
        for name, value in mean_metrics(outputs).items():
            meaning = f"at log-SNR {log_snr:g}, of {source}; by chance {chance[name]:.4g}"
            metrics.append(Metric(f"{name}_at_{log_snr:g}", value, meaning))
    return metrics


MOST_EVALUATIONS = 50
"""evaluations.json keeps at most so many evaluations, the last ones."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one evaluation and its recipe: number of samples, seed, checkpoint, solver, levels, guidance."""

    recipe: Mapping[str, Any]
    metrics: Sequence[Metric]


def recipe_of(checkpoint: Path, config: SamplingConfig | None, n: int, seed: int) -> dict[str, Any]:
    """The recipe of an evaluation, as values of JSON. A classifier has no `config`."""
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


def write_report(run: RunFolder, model: Model, config: SamplingConfig, seed: int, settings_toml: str) -> list[str]:
    """Write report.html: metrics, samples, trajectories from noise to data, the loss, and the configuration.

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

    pictures = [] if model.is_classifier else attempted("Samples", lambda: _pictures(model, config, seed))
    loss_label = "negative log-likelihood, nats" if model.is_classifier else "loss per degree of freedom"
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
    sections = [
        *attempted("Metrics", lambda: _metrics_sections(run)),
        *pictures,
        ("Loss", curve(losses, "steps", loss_label)),
        *([("Data", data_section(record))] if (record := read_record(run)) is not None else []),
        ("Run", facts_table(about)),
        ("Configuration", preformatted(settings_toml)),
    ]
    write_atomically(
        run.report, page(f"{model.modality.name}: {run.path.name}", sections).encode(errors="backslashreplace")
    )
    return failed


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
    words = ", ".join(f"{name} {_shown(value)}" for name, value in shown.items())
    return f"<p>{escape(words)}</p>" if words else ""


def _shown(value: Any) -> str:
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)[:40]


def _pictures(model: Model, config: SamplingConfig, seed: int) -> list[tuple[str, str]]:
    """Sections of the report with samples, and with a few trajectories from noise to data."""
    writer, known = part_of(model.modality, "writer", model.codec), known_conditions(model, config)
    conditions = example_conditions(model, 50, config)
    config = unguided_without_conditions(model, config, conditions)
    drawn = generate(model, config, conditions, 50, seed)
    samples = decode(model, drawn.state, drawn.mask)
    moments, rows = 9, 5
    few = {name: value[:rows] for name, value in conditions.items()}
    steps = trajectories(model, config, few, rows, moments, seed)
    states = decode(model, steps.state, steps.mask)
    htmls = {
        "Samples": writer.html(samples, 10, captions_of(known, conditions, 50)),
        "From noise to data": writer.html(
            states, moments + 1, captions_of(known, steps.conditions, steps.state.shape[0]), trajectories=True
        ),
    }
    if wrong := [type(html).__name__ for html in htmls.values() if not isinstance(html, str)]:
        raise UserError(f"`html` of the writer of {model.modality.name} must return a str, not {wrong[0]}")
    return list(htmls.items())
