"""A run from its first step to its report: training, pictures on the way, metrics and the report at the end."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffcore.errors import RAISED_BY_PLUGINS, UserError, quoted, told
from diffcore.evaluation.evaluate import evaluate, recipe_of, write_metrics, write_report
from diffcore.evaluation.request import PICTURED, EvaluationRequest, MetricFunction, NothingToEvaluateError
from diffcore.plugins.building import part_of
from diffcore.plugins.data import Data
from diffcore.plugins.registry import Registry
from diffcore.runs.checkpoints import find_checkpoint, read_progress
from diffcore.runs.composing import additions
from diffcore.runs.data_record import KINDS, record_of, summary, write_record
from diffcore.runs.ending import PARTS, made_parts, note_parts
from diffcore.runs.folder import RunFolder
from diffcore.runs.kept_draws import discard_draws, place_of_draws
from diffcore.runs.model import Model, build_additions
from diffcore.runs.samples import beside
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.runs.settings import RunSettings
from diffcore.system.distributed import from_leader, leads, world
from diffcore.system.progress import bar
from diffcore.training.events import Events, start_loggers
from diffcore.training.loop import Callbacks, LogLine, Outcome, train

logger = logging.getLogger(__name__)


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
    extra_metrics, events = _metrics_and_events(run, settings, model, data, registry)
    if leads():
        record = record_of(settings.data.name, data, model.codec)  # type: ignore[attr-defined]
        write_record(run, record)
        for line in [*summary(record), *_where_names_are(record, run)]:
            logger.info(line)
    size = sum(parameter.numel() for parameter in model.network.parameters())
    where = f"on {model.device}" + (f" in {world()} processes, {settings.train.parallel}" if world() > 1 else "")
    logger.info(f"{run.path}: {len(data.examples)} examples, {size / 1e6:.2f} M parameters, {where}")
    try:
        events.started(settings.model_dump(mode="json"), read_progress(checkpoint).step if checkpoint else 0)
        outcome = _train(run, settings, model, data, config, checkpoint, events)
        if outcome.interrupted:
            return outcome
        return _finish(run, settings, outcome, data, config, extra_metrics, events, pictured=True)
    finally:
        events.close()


def _metrics_and_events(
    run: RunFolder, settings: RunSettings, model: Model, data: Data, registry: Registry
) -> tuple[Mapping[str, MetricFunction], Events]:
    """The metrics of the settings, by name, and the events of the run; in the leader, the loggers listen to them."""
    name, metrics = settings.modality, additions(settings, "metric")
    extra_metrics = build_additions(registry, "metrics", name, metrics, model.codec, data)
    if not leads():
        return extra_metrics, Events(run.path, None, {})
    described, loggers = settings.model_dump(mode="json"), additions(settings, "logger")
    started = start_loggers(registry, name, loggers, run.path, described)
    return extra_metrics, Events(run.path, registry.plugins, started)


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
    if model.task.pictures is not None:
        run.samples.mkdir(exist_ok=True)

    def picture(averaged: Model, step: int) -> None:
        _picture(run, settings, averaged, data, step, config, events)

    with bar("training") as report:

        def log(line: LogLine) -> None:
            nonlocal last
            last = line.step
            text = f"step {line.step}, loss {line.loss:.4f}, {line.examples_per_second:.0f} examples/s"
            report(line.done, text, line.seconds_left)

        def pictured(step: int) -> bool:
            return from_leader(lambda: model.task.pictures is None or any(run.samples.glob(f"step-{step:08d}.*")))

        callbacks = Callbacks(log, picture, events.logged, events.saved, pictured)
        try:
            outcome = train(run, settings, model, data, callbacks, checkpoint)
        except BaseException as error:
            events.ended(last, error)
            raise
        try:
            with _complete(run):
                if outcome.stop_requested and not outcome.interrupted:
                    raise KeyboardInterrupt
                step = outcome.progress.step
                if not outcome.interrupted and _picture(run, settings, outcome.model, data, step, config, events):
                    _note(run, settings, {"picture"})
        finally:
            events.ended(outcome.progress.step)
    return outcome


@contextmanager
def _complete(run: RunFolder) -> Iterator[None]:
    """If it is interrupted (Ctrl-C), log that training is complete, and how to make what is missing."""
    try:
        yield
    except KeyboardInterrupt:
        logger.info(f"training is complete; diffcore resume {quoted(run.path)} makes what is missing at its end")
        raise


def _picture(
    run: RunFolder,
    settings: RunSettings,
    model: Model,
    data: Data,
    step: int,
    config: SamplingConfig,
    events: Events,
) -> bool:
    """Write the first picture of the task. If that fails, log the reason and return False: training goes on without."""
    if model.task.pictures is None:
        return True
    request = EvaluationRequest(settings, config, PICTURED, settings.seed)
    try:
        shown = next(iter(model.task.pictures(model, data, request)), None)
    except _failures() as error:
        logger.warning(f"no picture at step {step}: {told(error)}")
        return False
    if shown is None or not leads():
        return True
    try:
        writer = part_of(model.modality, "writer", model.codec)
        path = run.samples / f"step-{step:08d}{writer.endings[0]}"
        with beside(run.samples) as parts:
            writer.together(shown.samples, parts / path.name, shown.columns, shown.captions)
            (parts / path.name).replace(path)  # a link there is replaced, not followed
    except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
        logger.warning(f"no picture at step {step}: {told(error)}")
        return False
    events.sampled(step, path)
    return True


def _failures() -> tuple[type[BaseException], ...]:
    """The exceptions that do not end a run. If several processes take part, the others must see unknown ones."""
    return RAISED_BY_PLUGINS if world() == 1 else (UserError, OSError)


def _note(run: RunFolder, settings: RunSettings, made: Iterable[str]) -> None:
    """Note what has been made at the end of the run."""
    if leads():
        try:
            checkpoint = find_checkpoint(run)
            before = made_parts(run, checkpoint, settings.train.evaluate)
            note_parts(run, checkpoint, settings.train.evaluate, before | set(made))
        except OSError as error:
            logger.warning(f"what has been made at the end is not noted: {told(error)}")


def finish_later(
    run: RunFolder,
    settings: RunSettings,
    model: Model,
    data: Data,
    config: SamplingConfig,
    registry: Registry,
    checkpoint: Path,
) -> Outcome:
    """Make what is missing at the end of a run that is trained. `model` has the averaged weights of `checkpoint`."""
    extra_metrics, events = _metrics_and_events(run, settings, model, data, registry)
    outcome = Outcome(read_progress(checkpoint), False, model)
    try:
        return _finish(run, settings, outcome, data, config, extra_metrics, events)
    finally:
        events.close()


def _finish(
    run: RunFolder,
    settings: RunSettings,
    outcome: Outcome,
    data: Data,
    config: SamplingConfig,
    extra_metrics: Mapping[str, MetricFunction],
    events: Events,
    pictured: bool = False,
) -> Outcome:
    """The last picture, the metrics and the report, where they are missing. The outcome names what cannot be made.

    With `pictured`, the last picture was already tried.
    """
    count, model, step = settings.train.evaluate, outcome.model, outcome.progress.step
    done = from_leader(lambda: made_parts(run, find_checkpoint(run), count))
    made = set(done)
    with _complete(run):
        if "picture" not in done and not pictured and _picture(run, settings, model, data, step, config, events):
            made.add("picture")
            _note(run, settings, made)
        if "metrics" not in done and _evaluated(run, settings, outcome, data, config, extra_metrics, events):
            made.add("metrics")
            _note(run, settings, made)
        if "report" not in done and _reported(run, settings, model, data, config):
            made.add("report")
            _note(run, settings, made)
    return replace(outcome, missing=tuple(part for part in PARTS if part not in made))


def _evaluated(
    run: RunFolder,
    settings: RunSettings,
    outcome: Outcome,
    data: Data,
    config: SamplingConfig,
    extra_metrics: Mapping[str, MetricFunction],
    events: Events,
) -> bool:
    """Compute and write the metrics; return whether nothing failed."""
    count, model = settings.train.evaluate, outcome.model
    if not count:
        return True
    failed: list[str] = []

    def complain(text: str) -> None:
        logger.warning(text)
        failed.append(text)

    drawn = from_leader(lambda: place_of_draws(run, find_checkpoint(run)))
    request = EvaluationRequest(
        settings,
        config,
        count,
        settings.seed,
        extra_metrics=extra_metrics,
        run=run.path,
        drawn=drawn,
        complain=complain,
    )
    try:
        metrics = evaluate(model, data, request)
        for metric in metrics:
            logger.info(f"{metric.name}: {metric.value:.4g}  ({metric.meaning})")
        if leads():
            used = config if model.task.draws else None
            write_metrics(run, metrics, recipe_of(find_checkpoint(run), used, count, settings.seed))
            discard_draws(run)
            events.metrics(outcome.progress.step, metrics)
    except NothingToEvaluateError:
        return True
    except _failures() as error:  # the model and its samples are worth more than their metrics
        logger.warning(f"no metrics: {told(error)}")
        return False
    return not failed


def _reported(run: RunFolder, settings: RunSettings, model: Model, data: Data, config: SamplingConfig) -> bool:
    """Write the report; return whether nothing failed."""
    if not leads():
        return True
    try:
        request = EvaluationRequest(settings, config, PICTURED, settings.seed, together=False, run=run.path)
        failed = write_report(run, model, data, request)
        logger.info(f"report: {run.report}")
        return not failed
    except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
        logger.warning(f"no report: {told(error)}; the model is kept, and evaluating {quoted(run.path)} writes one")
        return False
