"""What a training step changes: the weights, their moving average, and the state of the optimiser."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from diffcore.denoising.precision import backbone_of, compute_in
from diffcore.errors import UserError
from diffcore.plugins.data import Data
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, read_tensors
from diffcore.runs.model import Model, require_fit
from diffcore.runs.settings import RunSettings
from diffcore.system.distributed import lowest, mean, world
from diffcore.tasks.ahead import Ahead
from diffcore.tasks.batch import Examples, read_ahead, resident
from diffcore.tasks.objective import Objective, losses_by_field
from diffcore.training import averages
from diffcore.training.cuda_graph import CudaGraph
from diffcore.training.muon import matrices, optimizer_of, optimizer_of_moments
from diffcore.training.parallel import (
    averaging,
    collected,
    distribute,
    local,
    require_shards,
    require_whole,
    shard,
    whole,
)

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What optimisers keep for each parameter; Muon keeps `exp_avg` alone for matrices."""


class TrainState:
    """The weights of a model in training, their moving average, and the optimiser.

    If several processes train, each has a share of a batch, and all must call the same methods in the same order.
    """

    def __init__(self, model: Model, settings: RunSettings, data: Data) -> None:
        options = settings.train
        require_shards(options.batch_size, options.parallel, options.compile, options.accumulate)
        require_whole(options.optimizer, options.parallel)
        self.model, self._settings = model, settings
        self._data = read_ahead(resident(data, model.device), settings, model.device)
        network = model.network
        self._averaged = replace(model, network=copy.deepcopy(network).requires_grad_(False))
        compute_in(network, options.precision, options.compile)
        compute_in(self._averaged.network, settings.sample.precision, settings.sample.compile)
        self._objective = distribute(
            Objective(model, settings), backbone_of(network), options.parallel, model.device, options.accumulate
        )
        self._parameters = dict(network.named_parameters())
        # Kept until there is a checkpoint to go back to.
        self._initial_weights: Tensors | None = {name: value.clone() for name, value in network.state_dict().items()}
        graphed = options.cuda_graphs and not options.buckets and model.device.type == "cuda" and world() == 1
        self._optimizer = optimizer_of(
            options.optimizer,
            network,
            lr=torch.tensor(options.learning_rate, device=model.device) if graphed else options.learning_rate,
            betas=(0.9, 0.99),
            fused=model.device.type in ("cpu", "cuda"),
            capturable=graphed,
        )
        self._graph = CudaGraph(self._descend, model.device) if graphed else None
        self._shard_average()

    def _shard_average(self) -> None:
        """Shard the average as the weights are sharded."""
        tensors, weights = list(self._averaged.network.parameters()), list(self._parameters.values())
        self._average = [shard(whole_one, weight) for whole_one, weight in zip(tensors, weights, strict=True)]
        self._is_sharded = any(mine is not whole_one for mine, whole_one in zip(self._average, tensors, strict=True))
        self._own_average = [local(tensor.detach()) for tensor in self._average]
        self._own_weights = [local(tensor.detach()) for tensor in weights]

    def advance(self, step: int, rate: float, examine: Callable[[float], None] | None = None) -> Tensor:
        """Do step `step`, counted from 0, with the learning rate `rate`; return the loss of this process's share.

        `examine` is called between the backward pass and the update, with the loss of all processes.
        """
        self._set_rate(rate)
        batch = self.model.task.draw(self.model, self._settings, self._data, step)
        loss = self._descend(batch, examine) if self._graph is None or examine is not None else self._graph(batch)
        decay = averages.power_decay(step + 1, self._settings.train.ema_width)
        averages.update(self._own_average, self._own_weights, decay)
        return loss

    def end_reading(self, steps: int, seconds: float) -> None:
        """End the thread that reads ahead, if there is one, and log how fast it was beside so many steps."""
        if isinstance(ahead := self._data.ahead, Ahead):
            ahead.close()
            if steps:
                logger.info(ahead.told(steps, seconds))

    def _set_rate(self, rate: float) -> None:
        group = self._optimizer.param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # a CUDA graph reads this tensor
        else:
            group["lr"] = rate

    def _descend(self, batch: Examples, examine: Callable[[float], None] | None = None) -> Tensor:
        """Change the weights by one step of the optimiser on `batch`; return the loss before it."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._differentiate(batch)
        if examine is not None:
            examine(mean(loss).item())
        nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.train.gradient_clip, foreach=True)
        self._optimizer.step()
        return loss

    def _differentiate(self, batch: Examples) -> Tensor:
        """Add the gradient of the loss on `batch`, part by part; return the loss."""
        parts = batch.split(self._settings.train.accumulate)
        losses = []
        for number, part in enumerate(parts, 1):
            with averaging(self._objective, number == len(parts)):
                loss = self._objective(part)
                loss.backward()
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def non_finite_gradient(self) -> str | None:
        """Return the name of the first parameter whose gradient is not finite, the same in all processes, or None."""
        gradients = {name: value.grad for name, value in self._parameters.items() if value.grad is not None}
        finite = [local(gradient).isfinite().all() for gradient in gradients.values()]
        bad = (~torch.stack(finite)).nonzero().flatten() if finite else torch.empty(0)
        first = lowest(int(bad[0]) if len(bad) else len(gradients))
        return list(gradients)[first] if first < len(gradients) else None

    def losses_by_field(self, step: int) -> dict[str, float]:
        """Return the loss of step `step` in parts, by name, the same in all processes (see `Task.losses_by_field`)."""
        batch = self.model.task.draw(self.model, self._settings, self._data, step)
        return losses_by_field(self._objective, batch)

    def averaged(self) -> Model:
        """Return the model with averaged weights, not sharded."""
        self._averaged_network().to(self.model.device)
        return self._averaged

    def _averaged_network(self) -> nn.Module:
        """Return the network with averaged weights, not sharded; if the weights are sharded, it is on the CPU."""
        network = self._averaged.network
        if self._is_sharded:
            network.cpu()
            for parameter, average in zip(network.parameters(), self._average, strict=True):
                parameter.copy_(whole(average))
        for buffer, own in zip(network.buffers(), self.model.network.buffers(), strict=True):
            buffer.copy_(own)  # running statistics of layers are averages already
        return network

    def files(self) -> dict[str, Tensors]:
        """Return the tensors of a checkpoint by file, not sharded. They are complete in the leader only."""
        return {
            MODEL: collected(self.model.network.state_dict()),
            EMA: self._averaged_network().state_dict(),
            TRAINING: collected(self._moments()),
        }

    def restore(self, checkpoint: Path | None) -> Tensors:
        """Restore everything from a checkpoint, or the initial weights if it is None.

        Returns the tensors of the checkpoint's training.safetensors that are not of the optimiser. Raises `UserError`
        if the checkpoint does not fit the network.
        """
        network, averaged = self.model.network.state_dict(), self._averaged.network.state_dict()
        self._optimizer.state.clear()
        if self._graph is not None:  # it holds the moments that are replaced now
            self._graph = CudaGraph(self._descend, self.model.device)
        if checkpoint is None:
            assert self._initial_weights is not None, "the initial weights were dropped"
            _assign(network, self._initial_weights, "the initial weights")
            initial = {name: whole(self._initial_weights[name]) for name in sorted(self._initial_weights)}
            _assign(averaged, initial, "the initial weights")
            self._shard_average()
            return {}
        _assign(network, read_tensors(checkpoint, MODEL), str(checkpoint / MODEL))
        _assign(averaged, read_tensors(checkpoint, EMA), str(checkpoint / EMA))
        self._shard_average()
        state = read_tensors(checkpoint, TRAINING)
        self._restore_moments({key: value for key, value in state.items() if "/" in key}, str(checkpoint / TRAINING))
        return {key: value for key, value in state.items() if "/" not in key}

    def drop_initial_weights(self) -> None:
        """Free the memory of the initial weights, since there is a checkpoint to go back to."""
        self._initial_weights = None

    @property
    def has_initial_weights(self) -> bool:
        """Whether the initial weights are kept, because there is no checkpoint yet."""
        return self._initial_weights is not None

    def _moments(self) -> Tensors:
        """Return the moments of the optimiser by kind and parameter: `exp_avg/backbone...`."""
        return {
            f"{key}/{name}": torch.as_tensor(value)
            for name, parameter in self._parameters.items()
            for key, value in self._optimizer.state[parameter].items()
        }

    def _restore_moments(self, moments: Tensors, source: str) -> None:
        for key in moments:
            kind, _, name = key.partition("/")
            if name not in self._parameters or kind not in _MOMENTS:
                raise UserError(f"{source} does not fit the network of config.json: {key[:200]!r} is not in it")
        kept_by, chosen = optimizer_of_moments(moments), self._settings.train.optimizer
        if moments and chosen != kept_by and matrices(self.model.network):
            raise UserError(f"`train.optimizer` is {chosen}, but {source} holds the state of the optimiser {kept_by}")
        for key, value in moments.items():
            kind, _, name = key.partition("/")
            parameter = self._parameters[name]
            if value.shape != (() if kind == "step" else parameter.shape):
                raise UserError(f"{source} does not fit the network of config.json: {key!r} has another shape")
            if kind == "step":
                kept = value.to(parameter.device)
            else:  # the fused optimiser pairs memory, not indices: a moment needs the strides of its parameter
                kept = torch.empty_like(parameter).copy_(shard(value, parameter))
            self._optimizer.state[parameter][kind] = kept.detach()


@torch.no_grad()
def _assign(own: Mapping[str, Tensor], values: Mapping[str, Tensor], source: str) -> None:
    """Copy `values` to the tensors of a network, each of which may be a shard."""
    require_fit({name: tensor.shape for name, tensor in own.items()}, values, source)
    for name, value in values.items():
        own[name].copy_(value if type(value) is type(own[name]) else shard(value, own[name]))
