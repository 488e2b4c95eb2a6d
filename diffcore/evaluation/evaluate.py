"""Figures of a trained model, and the run's report."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from diffcore.denoising.conditions import Conditions, in_words
from diffcore.errors import UserError, first_line
from diffcore.evaluation.property_metrics import target_figures
from diffcore.evaluation.report import curve, facts_table, figures_table, page, preformatted
from diffcore.plugins.data import Data
from diffcore.plugins.output import Figure
from diffcore.process.gaussian import perturb
from diffcore.runs.folder import Run, provenance, read_metrics
from diffcore.runs.generation import as_asked, generate, generate_together, strip
from diffcore.runs.model import Model, Recipe, known_conditions
from diffcore.sampling.loop import in_batches, levels_of
from diffcore.states.level import Level
from diffcore.states.noise import SampleNoise, generator_for
from diffcore.system.distributed import by_leader, gathered, leads, part, world
from diffcore.system.files import is_number, read_json, write_atomically, write_json
from diffcore.system.progress import counter, say


def spread_conditions(model: Model, n: int, recipe: Recipe | None = None) -> Conditions:
    """Conditions that show what there is, for `n` samples; with a recipe, also what its predictor alone knows."""
    known = model.codec.conditions if recipe is None else known_conditions(model, recipe)
    return {condition.name: condition.spread(n) for condition in known}


Metric = Callable[[Any, Conditions], list[Figure]]
"""Figures of samples that were asked to be such conditions."""


def evaluate(
    model: Model,
    recipe: Recipe,
    data: Data,
    n: int,
    seed: int,
    cache: Path,
    metrics: Mapping[str, Metric] = MappingProxyType({}),
) -> list[Figure]:
    """Figures of `n` samples, conditions spread evenly, what drawing them cost, and how well targets are met.

    `metrics`, by name, add theirs to those of the modality. One that fails is said, and the others are not lost. Where
    several processes draw, the leader judges what all of them drew, and the others get no figures.
    """
    made = model.modality.judge
    if made is None and not metrics:
        raise UserError(f"the plugin for {model.modality.name} has no figures; name some with --metric")
    say("making ready to judge samples")
    judge = None if made is None else by_leader(lambda: made(model.codec, data, cache))
    conditions = spread_conditions(model, n, recipe)
    plain = as_asked(model, recipe, conditions)
    with counter("sampling", n) as after_batch:
        started = time.perf_counter()
        drawn = generate_together(model, plain, conditions, n, seed, after_batch)
        seconds = time.perf_counter() - started

    def judged() -> list[Figure]:
        assert drawn is not None
        samples = model.codec.decode(drawn.state, drawn.mask)
        return [
            *(judge(samples, conditions) if judge else ()),
            *(figure for name, metric in metrics.items() for figure in _measured(name, metric, samples, conditions)),
        ]

    several = f", {world()} processes" if world() > 1 else ""
    return [
        *(by_leader(judged) or ()),
        Figure("samples", n, f"drawn with {recipe.steps} steps, guidance {plain.guidance:g}, seed {seed}"),
        Figure("samples_per_second", n / seconds, f"on {model.device}{several}"),
        *(target_figures(model, recipe, judge, data, n, seed) if made else ()),
    ]


def _measured(name: str, metric: Metric, samples: Any, conditions: Conditions) -> list[Figure]:
    try:
        return metric(samples, conditions)
    except Exception as error:  # a stranger's code may raise anything
        say(f"the metric {name} failed: {first_line(error)}")
        return []


LOG_SNRS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
"""Where a predictor is examined, from nearly all noise to nearly none."""


@torch.no_grad()
def evaluate_predictor(model: Model, data: Data, n: int, seed: int, batch_size: int = 250) -> list[Figure]:
    """How well a predictor tells the conditions of at most `n` held-out examples at several levels of noise.

    For each condition its negative log-likelihood in nats and the condition's own figures, beside those of chance:
    what is said best without a look at the state. They do not depend on the size of the batches. A condition that
    none of the examples has is left out. Where several processes look at a part of the examples each, the leader judges
    what all of them say, and the others get no figures.
    """
    predictor, codec = model.predictor.eval(), model.codec
    held_out = data.examples if data.held_out is None else data.held_out
    order = generator_for(seed, "examined")
    examples = held_out[torch.randperm(len(held_out), generator=order)[:n]]
    source = f"{len(examples)} {'training' if data.held_out is None else 'held-out'} examples"
    batches = list(in_batches(part(len(examples)), batch_size))
    encoded = [codec.encode(examples[list(rows)]) for rows in batches]
    values = codec.encode(examples).conditions
    seen = codec.encode(data.examples[torch.randperm(len(data.examples), generator=order)[: 10 * n]]).conditions

    def judged(said: dict[str, torch.Tensor]) -> dict[str, float]:
        found: dict[str, float] = {}
        for condition in codec.conditions:
            output, value = said[condition.name], values[condition.name]
            known = condition.given(value)
            if not known.any():
                continue
            each = {"nll": -condition.log_likelihood(output, value)[known], **condition.measures(output, value)}
            found |= {f"{condition.name}_{name}": row.double().mean().item() for name, row in each.items()}
        return found

    constants = {c.name: c.best_constant(seen[c.name]).expand(len(examples), -1) for c in codec.conditions}
    chance = judged(constants)
    figures = []
    noisiest, cleanest = model.schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    log_snrs = [value for value in LOG_SNRS if noisiest <= value <= cleanest]

    def outputs_at(level: Level) -> list[dict[str, torch.Tensor]]:
        outputs = []
        for rows, batch in zip(batches, encoded, strict=True):
            normal = SampleNoise(seed, rows).normal(batch.state)
            x = perturb(batch.state, codec.space.noise(normal, batch.mask), level)
            mask = None if batch.mask is None else batch.mask.to(model.device)
            outputs.append({name: said.cpu() for name, said in predictor(x.to(model.device), level, mask).items()})
        return outputs

    for level, log_snr in zip(levels_of(model.schedule, torch.tensor(log_snrs)), log_snrs, strict=False):
        outputs = [output for own in gathered(partial(outputs_at, level)) for output in own]
        if not leads():
            continue
        said = {c.name: torch.cat([output[c.name] for output in outputs]) for c in codec.conditions}
        for name, value in judged(said).items():
            meaning = f"at log-SNR {log_snr:g}, of {source}; by chance {chance[name]:.4g}"
            figures.append(Figure(f"{name}_at_{log_snr:g}", value, meaning))
    return figures


def write_figures(run: Run, figures: Sequence[Figure]) -> None:
    """Keep the figures in the run."""
    rows = [vars(figure) for figure in figures]
    write_json(run.figures, [row | {"value": row["value"] if math.isfinite(row["value"]) else None} for row in rows])


def read_figures(run: Run) -> list[Figure]:
    """The figures of the last evaluation, or none."""
    if not run.figures.exists():
        return []
    content = read_json(run.figures)
    rows: list[Any] = content if isinstance(content, list) else [None]
    if not all(
        isinstance(row, dict)
        and row.keys() == {"name", "value", "meaning"}
        and isinstance(row["name"], str)
        and isinstance(row["meaning"], str)
        and (row["value"] is None or is_number(row["value"]))
        for row in rows
    ):
        raise UserError(f"{run.figures} does not hold figures; write it anew with diffcore evaluate {run.path}")
    return [Figure(row["name"], math.nan if row["value"] is None else row["value"], row["meaning"]) for row in rows]


def write_report(run: Run, model: Model, recipe: Recipe, seed: int, settings_toml: str) -> None:
    """Write report.html: figures, samples, the way from noise to data, the loss, and the configuration."""
    try:
        pictures = [] if model.predicts else _pictures(model, recipe, seed)
    except UserError as error:  # what else there is to report stays
        pictures = [("Samples", preformatted(str(error)))]
    loss_label = "negative log-likelihood, nats" if model.predicts else "loss per degree of freedom"
    metrics = read_metrics(run)
    about: dict[str, object] = {**provenance(run)}
    if metrics:
        last = metrics[-1]
        about |= {
            "steps": last["step"],
            "minutes of training": round(last.get("seconds", 0) / 60, 2),
            "examples a second": last.get("examples_per_second", "unknown"),
        }
    losses = [(row["step"], row["loss"]) for row in metrics]
    sections = [
        ("Figures", figures_table(read_figures(run))),
        *pictures,
        ("Loss", curve(losses, "steps", loss_label)),
        ("Run", facts_table(about)),
        ("Configuration", preformatted(settings_toml)),
    ]
    write_atomically(
        run.report, page(f"{model.modality.name}: {run.path.name}", sections).encode(errors="backslashreplace")
    )


def _pictures(model: Model, recipe: Recipe, seed: int) -> list[tuple[str, str]]:
    """Samples, and a few of them on their way, as sections of the report."""
    writer, known = model.modality.writer(model.codec), known_conditions(model, recipe)
    conditions = spread_conditions(model, 50, recipe)
    recipe = as_asked(model, recipe, conditions)
    drawn = generate(model, recipe, conditions, 50, seed)
    samples = model.codec.decode(drawn.state, drawn.mask)
    moments, rows = 9, 5
    few = {name: value[:rows] for name, value in conditions.items()}
    steps = strip(model, recipe, few, rows, moments, seed)
    way = model.codec.decode(steps.state, steps.mask)
    return [
        ("Samples", writer.html(samples, 10, in_words(known, conditions, 50))),
        (
            "From noise to data",
            writer.html(way, moments + 1, in_words(known, steps.conditions, steps.state.shape[0]), trajectories=True),
        ),
    ]
