"""Figures of a trained model, and the run's report."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from diffcore.assembly import Model, Recipe
from diffcore.conditions import Conditions
from diffcore.data import Data
from diffcore.errors import UserError
from diffcore.generation import generate, strip
from diffcore.output import Figure
from diffcore.progress import counter, say
from diffcore.report import curve, facts_table, figures_table, page, preformatted
from diffcore.runs import Run, provenance, read_json, read_metrics, write_atomically, write_json


def spread_conditions(model: Model, n: int) -> Conditions:
    """Conditions that show what there is, for `n` samples."""
    return {condition.name: condition.spread(n) for condition in model.codec.conditions}


def evaluate(model: Model, recipe: Recipe, data: Data, n: int, seed: int, cache: Path) -> list[Figure]:
    """Figures of `n` samples, conditions spread evenly, and what drawing them cost."""
    if model.modality.judge is None:
        raise UserError(f"the plugin for {model.modality.name} has no figures")
    say("making ready to judge samples")
    judge = model.modality.judge(model.codec, data, cache)
    conditions = spread_conditions(model, n)
    with counter("sampling", n) as after_batch:
        started = time.perf_counter()
        states = generate(model, recipe, conditions, n, seed, after_batch)
        seconds = time.perf_counter() - started
    figures = judge(model.codec.decode(states), conditions)
    return [
        *figures,
        Figure("samples", n, f"drawn with {recipe.steps} steps, guidance {recipe.guidance:g}, seed {seed}"),
        Figure("samples_per_second", n / seconds, f"on {model.device}"),
    ]


def write_figures(run: Run, figures: Sequence[Figure]) -> None:
    """Keep the figures in the run."""
    write_json(run.figures, [vars(figure) for figure in figures])


def read_figures(run: Run) -> list[Figure]:
    """The figures of the last evaluation, or none."""
    if not run.figures.exists():
        return []
    try:
        return [Figure(**row) for row in read_json(run.figures)]
    except (TypeError, ValueError):
        raise UserError(
            f"{run.figures} does not hold figures; write it anew with diffcore evaluate {run.path}"
        ) from None


def write_report(run: Run, model: Model, recipe: Recipe, seed: int, settings_toml: str) -> None:
    """Write report.html: figures, samples, the way from noise to data, the loss, and the configuration."""
    writer = model.modality.writer()
    conditions = spread_conditions(model, 50)
    samples = model.codec.decode(generate(model, recipe, conditions, 50, seed))
    moments, rows = 9, 5
    few = {name: value[:rows] for name, value in conditions.items()}
    way = model.codec.decode(strip(model, recipe, few, rows, moments, seed))
    metrics = read_metrics(run)
    about: dict[str, object] = {**provenance(run)}
    if metrics:
        last = metrics[-1]
        about |= {
            "steps": last["step"],
            "minutes of training": round(last["seconds"] / 60, 2),
            "examples a second": last["examples_per_second"],
        }
    losses = [(row["step"], row["loss"]) for row in metrics]
    sections = [
        ("Figures", figures_table(read_figures(run))),
        ("Samples", writer.html(samples, 10)),
        ("From noise to data", writer.html(way, moments + 1)),
        ("Loss", curve(losses, "steps", "loss per degree of freedom")),
        ("Run", facts_table(about)),
        ("Configuration", preformatted(settings_toml)),
    ]
    write_atomically(run.report, page(f"{model.modality.name}: {run.path.name}", sections).encode())


def judge_cache() -> Path:
    """Where judges keep what they can use again: `$DIFFCORE_CACHE`, or `diffcore` in the user's cache folder."""
    if folder := os.environ.get("DIFFCORE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffcore"
