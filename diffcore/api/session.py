"""A run from its first step to its report: training, pictures on the way, metrics and the report at the end."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffcore.denoising.conditions import captions_of
from diffcore.errors import UserError, quoted
from diffcore.evaluation.evaluate import MetricFunction, evaluate, evaluate_classifier, write_metrics, write_report
from diffcore.plugins.building import part_of
from diffcore.plugins.data import Data
from diffcore.plugins.registry import Registry
from diffcore.runs.checkpoints import read_progress
from diffcore.runs.composing import additions, as_toml
from diffcore.runs.data_record import KINDS, record_of, summary, write_record
from diffcore.runs.folder import RunFolder
from diffcore.runs.generation import example_conditions, generate_together, unguided_without_conditions
from diffcore.runs.model import Model, build_additions
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.runs.settings import RunSettings
from diffcore.system.cache import cache_folder
from diffcore.system.distributed import leads, world
from diffcore.system.progress import bar
from diffcore.training.events import Events, start_loggers
from diffcore.training.loop import Callbacks, LogLine, Outcome, train

logger = logging.getLogger(__name__)

PICTURED = 50
"""Samples of a picture on the way."""


def run_training(
    run: RunFolder,
    settings: RunSettings,
    model: Model,
    data: Data,
    config: SamplingConfig,
    registry: Registry,
    checkpoint: Path | None = None,
) -> Outcome:
    """Train the model in the folder of `run`, from `checkpoint` on where one is given.

    Unless training is interrupted, metrics and the report follow; where these cannot be made, the reason is logged and
    the model stays.
    """
    described = settings.model_dump(mode="json")
    name, metrics, loggers = settings.modality, additions(settings, "metric"), additions(settings, "logger")
    extra_metrics = build_additions(registry, "metrics", name, metrics, model.codec, data)
    events = Events(run.path, None, {})
    if leads():
        events = Events(run.path, registry.plugins, start_loggers(registry, name, loggers, run.path, described))
        record = record_of(settings.data.name, data, model.codec)  # type: ignore[attr-defined]
        write_record(run, record)
        for line in [*summary(record), *_where_names_are(record, run)]:
            logger.info(line)
    size = sum(parameter.numel() for parameter in model.network.parameters())
    where = f"on {model.device}" + (f" in {world()} processes, {settings.train.parallel}" if world() > 1 else "")
    logger.info(f"{run.path}: {len(data.examples)} examples, {size / 1e6:.2f} M parameters, {where}")
    try:
        events.started(described, read_progress(checkpoint).step if checkpoint else 0)
        outcome = _train(run, settings, model, data, config, checkpoint, events)
        if not outcome.interrupted:
            _finish(run, settings, outcome, data, config, extra_metrics, events)
        return outcome
    finally:
        events.close()


def _where_names_are(record: Mapping[str, Any], run: RunFolder) -> list[str]:
    """A line that says where the names of all files are, if there are any."""
    entries = [entry for kind in KINDS for entry in record[kind].values()]
    return [f"all names: {run.data}"] if any(entry["names"] for entry in entries) else []


def _train(
    run: RunFolder,
    settings: RunSettings,
    model: Model,
    data: Data,
    config: SamplingConfig,
    checkpoint: Path | None,
    events: Events,
) -> Outcome:
    """Train with a bar and pictures on the way, and tell the listeners how it ended."""
    last = 0
    writer = part_of(model.modality, "writer", model.codec)
    if not model.is_classifier:
        run.samples.mkdir(exist_ok=True)

    def picture(averaged: Model, step: int) -> None:
        if averaged.is_classifier:
            return
        try:
            conditions = example_conditions(averaged, PICTURED)
            asked_for = unguided_without_conditions(averaged, config, conditions)
            drawn = generate_together(averaged, asked_for, conditions, PICTURED, settings.seed)
            if drawn is None:
                return
            path = run.samples / f"step-{step:08d}{writer.endings[0]}"
            path.unlink(missing_ok=True)  # a link there is replaced, not followed
            captions = captions_of(averaged.codec.conditions, conditions, PICTURED)
            writer.together(averaged.codec.decode(drawn.state, drawn.mask), path, 10, captions)
        except (UserError, OSError) as error:  # training goes on without
            logger.warning(f"no picture at step {step}: {error}")
            return
        events.sampled(step, path)

    with bar("training") as report:

        def log(line: LogLine) -> None:
            nonlocal last
            last = line.step
            text = f"step {line.step}, loss {line.loss:.4f}, {line.examples_per_second:.0f} examples/s"
            report(line.done, text, line.seconds_left)

        callbacks = Callbacks(log, picture, events.logged, events.saved)
        try:
            outcome = train(run, settings, model, data, callbacks, checkpoint)
        except BaseException as error:
            events.ended(last, error)
            raise
        if not outcome.interrupted:
            picture(outcome.model, outcome.progress.step)
    events.ended(outcome.progress.step)
    return outcome


def _finish(
    run: RunFolder,
    settings: RunSettings,
    outcome: Outcome,
    data: Data,
    config: SamplingConfig,
    extra_metrics: Mapping[str, MetricFunction],
    events: Events,
) -> None:
    """Metrics and the report."""
    count, model = settings.train.evaluate, outcome.model
    if count and (model.is_classifier or extra_metrics or model.modality.evaluator is not None):
        try:
            metrics = (
                evaluate_classifier(model, data, count, settings.seed, config.batch_size)
                if model.is_classifier
                else evaluate(model, config, data, count, settings.seed, cache_folder(), extra_metrics)
            )
            if leads():
                write_metrics(run, metrics)
                events.metrics(outcome.progress.step, metrics)
            for metric in metrics:
                logger.info(f"{metric.name}: {metric.value:.4g}  ({metric.meaning})")
        except (UserError, OSError) as error:  # the model and its samples are worth more than their metrics
            logger.warning(f"no metrics: {error}")
    if leads():
        try:
            write_report(run, model, config, settings.seed, as_toml(settings))
            logger.info(f"report: {run.report}")
        except OSError as error:
            logger.warning(f"no report: {error}; the model is kept, and evaluating {quoted(run.path)} writes one")
