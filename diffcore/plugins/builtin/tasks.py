"""The tasks of the core."""

from collections.abc import Iterable

from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Task, lazy


@hookimpl
def diffcore_tasks() -> Iterable[Task]:
    """The first is the default."""
    task, evaluation = lazy("diffcore.tasks"), lazy("diffcore.evaluation")
    return (
        Task(
            "denoise",
            "a denoiser, which draws samples",
            task("denoise:network"),
            loss=task("denoise:loss"),
            losses_by_field=task("denoise:losses_by_field"),
            evaluate=evaluation("samples:evaluate"),
            pictures=evaluation("samples:pictures"),
            loss_label="loss per degree of freedom",
            draws=True,
            helps=("weak",),
        ),
        Task(
            "classify",
            "a classifier of noisy states, which guides a denoiser of the same data",
            task("classify:network"),
            network="classifier",
            loss=task("classify:loss"),
            losses_by_field=task("classify:losses_by_field"),
            evaluate=evaluation("noisy_classifier:evaluate"),
            loss_label="negative log-likelihood, nats",
            helps=("classifier",),
            advice="let it guide a model of the same data as `classifier` {run}",
        ),
    )
