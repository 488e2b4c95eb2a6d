"""`diffcore train` and, from a checkpoint on, what `diffcore resume` shares with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from diffcore.cli.config import as_toml
from diffcore.cli.flags import run_settings
from diffcore.cli.screen import say
from diffcore.denoising.conditions import captions_of
from diffcore.errors import UserError
from diffcore.evaluation.evaluate import (
    MetricFunction,
    evaluate,
    evaluate_classifier,
    example_conditions,
    write_metrics,
    write_report,
)
from diffcore.plugins.data import Data
from diffcore.plugins.registry import Registry, installed
from diffcore.runs.checkpoints import read_progress
from diffcore.runs.folder import Run, describe, new_folder
from diffcore.runs.generation import as_asked, generate_together, require_conditions
from diffcore.runs.lock import held
from diffcore.runs.model import (
    Model,
    SamplingConfig,
    build_additions,
    build_data,
    build_model,
    device_for,
    sampling_config,
)
from diffcore.runs.settings import RunSettings, additions
from diffcore.system.cache import cache_folder
from diffcore.system.distributed import by_leader, from_leader, in_turn, leads, world
from diffcore.system.progress import bar
from diffcore.training.events import Events, begun
from diffcore.training.loop import Outcome, Pulse, Watcher, require_end
from diffcore.training.loop import train as train_model


def main(arguments: Sequence[str]) -> int:
    registry = installed()
    settings, chosen = run_settings(arguments, registry, "diffcore train")
    device_for(settings.device)
    require_end(settings.train)
    config = sampling_config(settings.sample, registry)
    data = in_turn(lambda: build_data(settings, registry))
    model = build_model(settings, data.facts, registry)
    if not model.is_classifier:
        shown = example_conditions(model, 1)
        require_conditions(model, as_asked(model, config, shown), shown)
    out = Path(chosen.out) if chosen.out else None
    run = Run(from_leader(lambda: new_folder(out, settings.modality, settings.preset)))

    def describe_new() -> None:
        if run.config.exists():  # another process was quicker
            raise UserError(f"{run.path} exists already: choose another --out")
        describe(run, settings, data.facts.model_dump(mode="json"), registry)

    with held(run):
        by_leader(describe_new)
        for note in data.notes:
            say(note)
        return run_training(run, settings, model, data, config, registry)


def run_training(
    run: Run,
    settings: RunSettings,
    model: Model,
    data: Data,
    config: SamplingConfig,
    registry: Registry,
    checkpoint: Path | None = None,
) -> int:
    """Train, then write samples, metrics and the report; returns the exit status."""
    from diffcore.cli import INTERRUPTED

    described = settings.model_dump(mode="json")
    name, extra_metrics, loggers = settings.modality, additions(settings, "metric"), additions(settings, "logger")
    evaluators = build_additions(registry, "metrics", name, extra_metrics, model.codec, data)
    events = Events(run.path, None, {})
    if leads():
        events = Events(run.path, registry.plugins, begun(registry, name, loggers, run.path, described))
    size = sum(parameter.numel() for parameter in model.network.parameters())
    where = f"on {model.device}" + (f" in {world()} processes, {settings.train.parallel}" if world() > 1 else "")
    say(f"{run.path}: {len(data.examples)} examples, {size / 1e6:.2f} M parameters, {where}")
    try:
        events.started(described, read_progress(checkpoint).step if checkpoint else 0)
        outcome = _train_with_bar(run, settings, model, data, config, checkpoint, events)
        if outcome.interrupted:
            say(f"stopped at step {outcome.progress.step}; go on with: diffcore resume {run.path}")
            return INTERRUPTED
        finish(run, settings, outcome, data, config, evaluators, events)
        return 0
    finally:
        events.close()


def _train_with_bar(
    run: Run,
    settings: RunSettings,
    model: Model,
    data: Data,
    config: SamplingConfig,
    checkpoint: Path | None,
    events: Events,
) -> Outcome:
    last = 0
    writer = model.modality.writer(model.codec)
    if not model.is_classifier:
        run.samples.mkdir(exist_ok=True)

    def picture(averaged: Model, step: int) -> None:
        if averaged.is_classifier:
            return
        try:
            conditions = example_conditions(averaged, 50)
            asked_for = as_asked(averaged, config, conditions)
            drawn = generate_together(averaged, asked_for, conditions, 50, settings.seed)
            if drawn is None:
                return
            path = run.samples / f"step-{step:08d}{writer.endings[0]}"
            path.unlink(missing_ok=True)  # a link there is replaced, not followed
            captions = captions_of(averaged.codec.conditions, conditions, 50)
            writer.together(averaged.codec.decode(drawn.state, drawn.mask), path, 10, captions)
        except (UserError, OSError) as error:  # training goes on without
            say(f"no picture at step {step}: {error}")
            return
        events.sampled(step, path)

    with bar("training") as report:

        def pulse(pulse: Pulse) -> None:
            nonlocal last
            last = pulse.step
            report(pulse.done, f"step {pulse.step}, loss {pulse.loss:.4f}, {pulse.examples_per_second:.0f} examples/s")

        watcher = Watcher(pulse, picture, events.logged, events.saved)
        try:
            outcome = train_model(run, settings, model, data, watcher, checkpoint)
        except BaseException as error:
            events.ended(last, error)
            raise
        if not outcome.interrupted:
            picture(outcome.model, outcome.progress.step)
    events.ended(outcome.progress.step)
    return outcome


def finish(
    run: Run,
    settings: RunSettings,
    outcome: Outcome,
    data: Data,
    config: SamplingConfig,
    extra_metrics: Mapping[str, MetricFunction],
    events: Events,
) -> None:
    """Figures, report, and where they are."""
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
                say(f"{metric.name}: {metric.value:.4g}  ({metric.meaning})")
        except (UserError, OSError) as error:  # the model and its samples are worth more than their metrics
            say(f"no metrics: {error}")
    if leads():
        try:
            write_report(run, model, config, settings.seed, as_toml(settings))
            say(f"report: {run.report}")
        except OSError as error:
            say(f"no report: {error}; the model is kept, and diffcore evaluate {run.path} writes one")
    if model.is_classifier:
        say(f"let it guide a model of the same data: diffcore sample RUN --classifier {run.path}")
    else:
        say(f"more samples: diffcore sample {run.path}")
