"""`diffcore evaluate RUN`: metrics of a run's samples."""

import json
from collections.abc import Sequence
from typing import Annotated

import tyro
from pydantic import Field

from diffcore.cli.config import as_toml
from diffcore.cli.sample import DrawOptions, read_drawing, trained
from diffcore.cli.screen import say
from diffcore.errors import UserError
from diffcore.evaluation.evaluate import evaluate, evaluate_classifier, write_metrics, write_report
from diffcore.plugins.registry import installed
from diffcore.runs.folder import Run
from diffcore.runs.model import build_additions, data_of
from diffcore.runs.settings import additions
from diffcore.states.spaces import describe_difference
from diffcore.system.cache import cache_folder
from diffcore.system.distributed import in_turn, leads


class Options(DrawOptions):
    n: int = Field(500, ge=2, description="How many samples, or held-out examples for a classifier.")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the metrics as JSON."""


def main(arguments: Sequence[str]) -> int:
    registry = installed()
    drawing = read_drawing(
        Options,
        arguments,
        registry,
        "diffcore evaluate",
        "Figures of a run's samples, or of a classifier.",
        flags=("guide", "metric"),
    )
    options = drawing.options
    settings, model, config = trained(drawing, registry)
    data = in_turn(lambda: data_of(options.run, settings, registry))
    if difference := describe_difference(model.modality.codec(data.facts).space, model.codec.space):
        raise UserError(f"{options.run} was trained on other data than are there now: {difference}")
    if model.is_classifier:
        metrics = evaluate_classifier(model, data, options.n, options.seed, config.batch_size)
    else:
        wanted = additions(settings, "metric") | drawing.chosen("metric")
        extra_metrics = build_additions(registry, "metrics", model.modality.name, wanted, model.codec, data)
        metrics = evaluate(model, config, data, options.n, options.seed, cache_folder(), extra_metrics)
    if not leads():
        return 0
    run = Run(options.run)
    write_metrics(run, metrics)
    write_report(run, model, config, options.seed, as_toml(settings))
    if options.as_json:
        print(json.dumps({metric.name: metric.value for metric in metrics}, indent=2))
    else:
        for metric in metrics:
            print(f"{metric.name}: {metric.value:.4g}  ({metric.meaning})")
    say(f"report: {run.report}")
    return 0
