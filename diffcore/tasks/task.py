"""The tasks that a run can train, each a record of functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from diffcore.runs.model import Model
from diffcore.runs.settings import RunSettings
from diffcore.tasks import classify, denoise
from diffcore.tasks.batch import Batch


@dataclass(frozen=True)
class Task:
    """What training minimises. Both functions receive the model, a batch and the settings of the run."""

    name: str
    loss: Callable[[Model, Batch, RunSettings], Tensor]
    """The loss of each example, `[B]`, differentiable."""
    losses_by_field: Callable[[Model, Batch, RunSettings], dict[str, float]]
    """The mean loss of the batch in parts, by name: of each field of the state, or of each condition.

    Training calls it when the loss diverged, to report which part diverged.
    """


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("denoise", denoise.loss, denoise.losses_by_field),
        Task("classify", classify.loss, classify.losses_by_field),
    )
}
"""The tasks by name, as in `task` of the settings (`diffcore.names.Task`)."""
