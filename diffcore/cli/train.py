"""`diffcore train` and, from a checkpoint on, what `diffcore resume` shares with it."""

from collections.abc import Sequence
from pathlib import Path

from diffcore.assembly import Model, Recipe, build_data, build_model, build_recipe, device_for
from diffcore.cache import cache_folder
from diffcore.cli.config import as_toml
from diffcore.cli.flags import run_settings
from diffcore.conditions import in_words
from diffcore.config import RunSettings
from diffcore.data import Data
from diffcore.errors import UserError
from diffcore.evaluation import (
    evaluate,
    evaluate_predictor,
    spread_conditions,
    write_figures,
    write_report,
)
from diffcore.generation import as_asked, generate, require_conditions
from diffcore.lock import held
from diffcore.progress import bar, say
from diffcore.registry import installed
from diffcore.runs import Run, describe, new_folder
from diffcore.training import Outcome, Pulse, Watcher, require_end
from diffcore.training import train as run_training


def main(arguments: Sequence[str]) -> int:
    registry = installed()
    settings, chosen = run_settings(arguments, registry, "diffcore train")
    device_for(settings.device)
    require_end(settings.train)
    recipe = build_recipe(settings.sample, registry)
    data = build_data(settings, registry)
    model = build_model(settings, data.facts, registry)
    if not model.predicts:
        shown = spread_conditions(model, 1)
        require_conditions(model, as_asked(model, recipe, shown), shown)
    run = Run(new_folder(Path(chosen.out) if chosen.out else None, settings.modality, settings.preset))
    with held(run):
        if run.config.exists():  # another process was quicker
            raise UserError(f"{run.path} exists already: choose another --out")
        describe(run, settings, data.facts.model_dump(mode="json"), registry)
        for note in data.notes:
            say(note)
        return follow(run, settings, model, data, recipe)


def follow(
    run: Run, settings: RunSettings, model: Model, data: Data, recipe: Recipe, checkpoint: Path | None = None
) -> int:
    """Train, then write samples, figures and the report; returns the exit status."""
    from diffcore.cli import INTERRUPTED

    size = sum(parameter.numel() for parameter in model.network.parameters())
    say(f"{run.path}: {len(data.examples)} examples, {size / 1e6:.2f} M parameters, on {model.device}")
    outcome = _train_with_bar(run, settings, model, data, recipe, checkpoint)
    if outcome.interrupted:
        say(f"stopped at step {outcome.progress.step}; go on with: diffcore resume {run.path}")
        return INTERRUPTED
    finish(run, settings, outcome.model, data, recipe)
    return 0


def _train_with_bar(
    run: Run, settings: RunSettings, model: Model, data: Data, recipe: Recipe, checkpoint: Path | None
) -> Outcome:
    writer = model.modality.writer(model.codec)
    if not model.predicts:
        run.samples.mkdir(exist_ok=True)

    def picture(averaged: Model, step: int) -> None:
        if averaged.predicts:
            return
        try:
            conditions = spread_conditions(averaged, 50)
            drawn = generate(averaged, as_asked(averaged, recipe, conditions), conditions, 50, settings.seed)
            path = run.samples / f"step-{step:08d}{writer.endings[0]}"
            path.unlink(missing_ok=True)  # a link there is replaced, not followed
            asked = in_words(averaged.codec.conditions, conditions, 50)
            writer.together(averaged.codec.decode(drawn.state, drawn.mask), path, 10, asked)
        except (UserError, OSError) as error:  # training goes on without
            say(f"no picture at step {step}: {error}")

    with bar("training") as report:

        def pulse(pulse: Pulse) -> None:
            report(pulse.done, f"step {pulse.step}, loss {pulse.loss:.4f}, {pulse.examples_per_second:.0f} examples/s")

        outcome = run_training(run, settings, model, data, Watcher(pulse, picture), checkpoint)
        if not outcome.interrupted:
            picture(outcome.model, outcome.progress.step)
    return outcome


def finish(run: Run, settings: RunSettings, model: Model, data: Data, recipe: Recipe) -> None:
    """Figures, report, and where they are."""
    count = settings.train.evaluate
    if count and (model.predicts or model.modality.judge is not None):
        try:
            figures = (
                evaluate_predictor(model, data, count, settings.seed, recipe.batch_size)
                if model.predicts
                else evaluate(model, recipe, data, count, settings.seed, cache_folder())
            )
            write_figures(run, figures)
            for figure in figures:
                say(f"{figure.name}: {figure.value:.4g}  ({figure.meaning})")
        except (UserError, OSError) as error:  # the model and its samples are worth more than their figures
            say(f"no figures: {error}")
    try:
        write_report(run, model, recipe, settings.seed, as_toml(settings))
        say(f"report: {run.report}")
    except OSError as error:
        say(f"no report: {error}; the model is kept, and diffcore evaluate {run.path} writes one")
    if model.predicts:
        say(f"let it guide a model of the same data: diffcore sample RUN --predictor {run.path}")
    else:
        say(f"more samples: diffcore sample {run.path}")
