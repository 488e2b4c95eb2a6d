"""The loss of a training step as a module, which several processes can share."""

import math

import torch
from torch import Tensor, nn

from diffcore.errors import UserError
from diffcore.plugins.data import Data
from diffcore.runs.model import Model
from diffcore.runs.settings import RunSettings
from diffcore.states.form import form_difference
from diffcore.states.global_random import seeded
from diffcore.states.state import fields
from diffcore.system.distributed import mean
from diffcore.tasks.batch import Examples
from diffcore.tasks.random_state import keep_random_state, seed_generators


class Objective(nn.Module):
    """The loss of the settings' task, computed with the network of `model`.

    Several processes may share the weights of the network, so every evaluation of the network in training goes
    through `forward` of this module, which DDP and FSDP wrap.
    """

    def __init__(self, model: Model, settings: RunSettings) -> None:
        super().__init__()
        self.network = model.network
        self.model, self.settings = model, settings
        self.task = model.task

    def forward(self, batch: Examples, by_field: bool = False) -> Tensor | dict[str, float]:
        """Return the mean loss of the batch times `batch.weight`, a scalar to differentiate.

        With `by_field`, return floats by name instead: the parts of that loss, as `Task.losses_by_field` defines them.

        The global random generators are seeded with `batch.dropout_seed` first. That of the CPU gets its state back.
        """
        with seeded(batch.dropout_seed):
            seed_generators(self.model.device, batch.dropout_seed)
            return self._loss(batch, by_field)

    def _loss(self, batch: Examples, by_field: bool) -> Tensor | dict[str, float]:
        if by_field and self.task.losses_by_field is not None:
            losses: dict[str, float] = self.task.losses_by_field(self.model, batch, self.settings)
            return {name: batch.weight * loss for name, loss in losses.items()}
        each: Tensor = self.task.loss(self.model, batch, self.settings)
        if difference := form_difference(each, {"": (batch.x0.shape[0],)}):
            raise UserError(f"the loss of the task {self.task.name} is not one number for each example: {difference}")
        loss = batch.weight * each.mean()
        return {"loss": loss.item()} if by_field else loss


def step_loss(model: Model, settings: RunSettings, data: Data, step: int) -> Tensor:
    """Return the mean loss of the batch of step `step`, a scalar to differentiate."""
    with keep_random_state(model.device):
        return Objective(model, settings)(model.task.draw(model, settings, data, step))


@torch.no_grad()
def losses_by_field(objective: nn.Module, batch: Examples) -> dict[str, float]:
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
