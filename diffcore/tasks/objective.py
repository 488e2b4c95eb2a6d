"""The loss of a training step as a module, which several processes can share."""

import math

import torch
from torch import Tensor, nn

from diffcore.plugins.data import Data
from diffcore.runs.model import Model
from diffcore.runs.settings import RunSettings
from diffcore.states.global_random import seeded
from diffcore.states.state import fields
from diffcore.system.distributed import mean
from diffcore.tasks.batch import Batch, draw_batch
from diffcore.tasks.random_state import keep_random_state, seed_generators
from diffcore.tasks.task import TASKS


class Objective(nn.Module):
    """The loss of the settings' task, computed with the network of `model`.

    Several processes may share the weights of the network, so every evaluation of the network in training goes
    through `forward` of this module, which DDP and FSDP wrap.
    """

    def __init__(self, model: Model, settings: RunSettings) -> None:
        super().__init__()
        self.network = model.network
        self.model, self.settings = model, settings
        self.task = TASKS[settings.task]

    def forward(self, batch: Batch, by_field: bool = False) -> Tensor | dict[str, float]:
        """Return the mean loss of the batch times `batch.weight`, a scalar to differentiate.

        With `by_field`, return floats by name instead: the parts of that loss, as `Task.losses_by_field` defines them.

        The global random generators are seeded with `batch.dropout_seed` first. That of the CPU gets its state back.
        """
        with seeded(batch.dropout_seed):
            seed_generators(self.model.device, batch.dropout_seed)
            return self._loss(batch, by_field)

    def _loss(self, batch: Batch, by_field: bool) -> Tensor | dict[str, float]:
        if by_field:
            losses = self.task.losses_by_field(self.model, batch, self.settings)
            return {name: batch.weight * loss for name, loss in losses.items()}
        return batch.weight * self.task.loss(self.model, batch, self.settings).mean()


def step_loss(model: Model, settings: RunSettings, data: Data, step: int) -> Tensor:
    """Return the mean loss of the batch of step `step`, a scalar to differentiate."""
    with keep_random_state(model.device):
        return Objective(model, settings)(draw_batch(model, settings, data, step))


@torch.no_grad()
def losses_by_field(objective: nn.Module, batch: Batch) -> dict[str, float]:
    """Return the loss of a batch in parts, by name, the same in all processes (see `Task.losses_by_field`).

    If the data themselves are not finite, only the fields that are not finite are returned, each with NaN, under the
    name `'FIELD of the data'`.
    """
    non_finite = {name: float(not field.isfinite().all()) for name, field in fields(batch.x0).items()}
    if bad := [name for name, share in _mean_over_processes(non_finite).items() if share]:
        return {f"{name} of the data".strip(): math.nan for name in bad}
    return _mean_over_processes(objective(batch, by_field=True))


def _mean_over_processes(values: dict[str, float]) -> dict[str, float]:
    return dict(zip(values, mean(torch.tensor(list(values.values()), dtype=torch.float64)).tolist(), strict=True))
