"""The evaluations that a run has kept, as curves over the number of steps."""

from collections.abc import Sequence
from pathlib import Path

from diffcore.errors import UserError
from diffcore.evaluation.evaluate import Evaluation, read_evaluations
from diffcore.runs.folder import RunFolder


def kept_evaluations(path: Path) -> list[Evaluation]:
    """The evaluations in a run folder; none if they cannot be read."""
    try:
        return read_evaluations(RunFolder(path))
    except (UserError, OSError):
        return []


def points_of(evaluations: Sequence[Evaluation], name: str) -> list[tuple[float, float]]:
    """The values of a metric over the number of steps, of the last evaluation with each number."""
    found = {
        float(evaluation.recipe["steps"]): metric.value
        for evaluation in evaluations
        if "steps" in evaluation.recipe
        for metric in evaluation.metrics
        if metric.name == name and metric.value == metric.value
    }
    return sorted(found.items())
