"""The metrics of a student beside those of its teacher, and quality against steps as curves."""

from dataclasses import replace
from pathlib import Path

from diffcore.errors import UserError, told
from diffcore.evaluation import samples
from diffcore.evaluation.kept import kept_evaluations, points_of
from diffcore.evaluation.report import curves
from diffcore.evaluation.request import EvaluationRequest
from diffcore.plugins import registry as plugins
from diffcore.plugins.data import Data
from diffcore.plugins.output import Metric
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import sampling_config
from diffcore.system.distributed import by_leader
from diffcore.tasks.distill import teacher_of

TEACHER = "_teacher"
"""The end of the name of a metric of the teacher."""

MOST_CURVES = 4


def evaluate(model: Model, data: Data, request: EvaluationRequest) -> list[Metric]:
    """The metrics of the student, and `NAME_teacher` for as many samples that the teacher draws in as many steps.

    The teacher draws with its own solver, grid and guidance. Its metrics are left out, and `request.complain` is called
    with the reason, if its folder is not there any more.
    """
    own = samples.evaluate(model, data, request)
    names = {metric.name for metric in own}
    try:
        loaded = teacher_of(request.settings, model)
    except (UserError, OSError) as error:
        request.complain(f"the student is not compared with its teacher: {told(error)}")
        return own
    settings = loaded.settings.sample.model_copy(update={"steps": request.config.steps})
    config = sampling_config(settings, plugins.installed(), loaded.model)
    asked = replace(request, config=config, extra_metrics={})
    evaluator = by_leader(lambda: samples.evaluator_of(loaded.model, data, asked))
    if evaluator is None and model.modality.evaluator is None:
        return own
    found = samples.of_drawn(loaded.model, data, asked, evaluator)
    kept = [metric for metric in found if metric.name in names and not metric.name.endswith("_real")]
    return [*own, *(replace(metric, name=metric.name + TEACHER) for metric in kept)]


def report(model: Model, data: Data, request: EvaluationRequest) -> list[tuple[str, str]]:
    """Curves of the first metrics over the number of steps, of the student and of its teacher.

    Their points are the evaluations that both runs have kept: `diffcore evaluate RUN --steps N` adds one.
    """
    if request.run is None:
        return []
    mine = kept_evaluations(request.run)
    of_teacher = kept_evaluations(Path(request.settings.task.teacher))  # type: ignore[attr-defined]
    names = [metric.name for evaluation in mine[-1:] for metric in evaluation.metrics]
    compared = [name for name in names if name + TEACHER in names and name not in ("samples", "samples_per_second")]
    shown = []
    for name in compared[:MOST_CURVES]:
        series = {
            "student": points_of(mine, name),
            "teacher": sorted({*points_of(of_teacher, name), *points_of(mine, name + TEACHER)}),
        }
        shown.append(curves({who: points for who, points in series.items() if points}, "steps", name))
    text = "<p>Each point is an evaluation of the student or of its teacher, as each draws in so many steps.</p>"
    return [("Quality against steps", text + "".join(shown))] if shown else []
