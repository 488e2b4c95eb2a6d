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
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, read_tensors, shards_of
from diffcore.runs.model import Model, require_fit
from diffcore.runs.settings import RunSettings
from diffcore.runs.tensor_shards import Sharded
from diffcore.system.distributed import lowest, mean, world
from diffcore.tasks.ahead import Ahead
from diffcore.tasks.batch import Examples, read_ahead, resident
from diffcore.tasks.objective import Objective, losses_by_field
from diffcore.training import averages
from diffcore.training.cuda_graph import CudaGraph
from diffcore.training.muon import matrices, optimizer_of, optimizer_of_moments
from diffcore.training.parallel import (
    averaging,
    distribute,
    fill,
    local,
    require_shards,
    require_whole,
    sharded_as,
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
        self._averaged = replace(model, network=copy.deepcopy(network).requires_grad_(False), rows=None)
        compute_in(network, options.precision, options.compile)
        compute_in(self._averaged.network, settings.sample.precision, settings.sample.compile)
        self._objective = distribute(
            Objective(model, settings), backbone_of(network), options.parallel, model.device, options.accumulate
        )
        self.is_sharded = world() > 1 and options.parallel == "fsdp"
        """Whether each process has rows of the tensors of `files` only."""
        if model.rows is not None:
            fill(self._objective, network, model.rows, model.device)
        self._parameters = dict(network.named_parameters())
        # Kept until there is a checkpoint to go back to.
        self._initial_weights: Tensors | None = {name: _copied(value) for name, value in network.state_dict().items()}
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
        """Begin the average with the weights; it is sharded as they are."""
        weights = list(self._parameters.values())
        if self.is_sharded:
            self._average = [_copied(weight) for weight in weights]
            self.put_away()
        else:
            self._average = list(self._averaged.network.parameters())
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
        """Return the model with averaged weights, not sharded; `put_away` frees its memory."""
        self._averaged_network().to(self.model.device)
        return self._averaged

    def put_away(self) -> None:
        """Free the memory of the model that `averaged` returned, if the average itself is sharded."""
        if self.is_sharded:
            parameters = {id(parameter) for parameter in self._averaged.network.parameters()}
            self._averaged.network._apply(
                lambda tensor: torch.empty_like(tensor, device="meta") if id(tensor) in parameters else tensor
            )

    @torch.no_grad()
    def _averaged_network(self) -> nn.Module:
        """Return the network with averaged weights, not sharded; if the weights are sharded, it is on the CPU."""
        network = self._averaged.network
        if self.is_sharded:
            network._apply(lambda tensor: torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor.cpu())
            for parameter, average in zip(network.parameters(), self._average, strict=True):
                parameter.copy_(whole(average))
        self._copy_buffers()
        return network

    @torch.no_grad()
    def _copy_buffers(self) -> None:
        for buffer, own in zip(self._averaged.network.buffers(), self.model.network.buffers(), strict=True):
            buffer.copy_(own)  # running statistics of layers are averages already

    def files(self) -> dict[str, Tensors]:
        """Return the tensors of a checkpoint by file. Each process has its rows of those that are sharded."""
        self._copy_buffers()
        return {
            MODEL: _by_name(self.model.network.state_dict()),
            EMA: _by_name(self._average_tensors()),
            TRAINING: _by_name(self._moments()),
        }

    def _average_tensors(self) -> Tensors:
        """Return the average by the names in the `state_dict` of the network."""
        averages = {id(weight): own for weight, own in zip(self._parameters.values(), self._average, strict=True)}
        buffers = self._averaged.network.state_dict()
        return {
            name: averages[id(tensor)].detach() if id(tensor) in averages else buffers[name]
            for name, tensor in self.model.network.state_dict(keep_vars=True).items()
        }

    def restore(self, checkpoint: Path | None) -> Tensors:
        """Restore everything from a checkpoint, or the initial weights if it is None.

        Returns the tensors of the checkpoint's training.safetensors that are not of the optimiser. Raises `UserError`
        if the checkpoint does not fit the network.
        """
        self._optimizer.state.clear()
        if self._graph is not None:  # it holds the moments that are replaced now
            self._graph = CudaGraph(self._descend, self.model.device)
        network, averages = self.model.network.state_dict(), self._average_tensors()
        if checkpoint is None:
            assert self._initial_weights is not None, "the initial weights were dropped"
            _assign(network, self._initial_weights, "the initial weights")
            _assign(averages, self._initial_weights, "the initial weights")
            return {}
        if self.is_sharded:
            return self._restore_rows(checkpoint, {MODEL: network, EMA: averages})
        _assign(network, read_tensors(checkpoint, MODEL), str(checkpoint / MODEL))
        _assign(averages, read_tensors(checkpoint, EMA), str(checkpoint / EMA))
        state = read_tensors(checkpoint, TRAINING)
        moments = {key: value for key, value in state.items() if "/" in key}
        self._require_moments(moments, str(checkpoint / TRAINING))
        for key, value in moments.items():
            kind, parameter = self._of_moment(key)
            # The fused optimiser pairs memory, not indices: a moment needs the strides of its parameter.
            kept = value.to(parameter.device) if kind == "step" else torch.empty_like(parameter).copy_(value)
            self._optimizer.state[parameter][kind] = kept.detach()
        return {key: value for key, value in state.items() if "/" not in key}

    def _restore_rows(self, checkpoint: Path, own: Mapping[str, Tensors]) -> Tensors:
        """Restore what is sharded, each process its rows; return the tensors that are not of the optimiser."""
        from diffcore.training.sharded_checkpointing import read_into

        for file, tensors in own.items():
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
            require_fit(shapes, shards_of(checkpoint, file), str(checkpoint / file))
            read_into(checkpoint, file, tensors)
        state = shards_of(checkpoint, TRAINING)
        moments = {key: value for key, value in state.items() if "/" in key}
        self._require_moments(moments, str(checkpoint / TRAINING))
        rows = {}
        for key, value in moments.items():
            kind, parameter = self._of_moment(key)
            kept = value.tensor().to(parameter.device) if kind == "step" else _copied(parameter)
            self._optimizer.state[parameter][kind] = kept
            if kind != "step":
                rows[key] = kept
        read_into(checkpoint, TRAINING, rows)
        return {key: value.tensor() for key, value in state.items() if "/" not in key}

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

    def _of_moment(self, key: str) -> tuple[str, nn.Parameter]:
        """Return the kind and the parameter of a moment of that name."""
        kind, _, name = key.partition("/")
        return kind, self._parameters[name]

    def _require_moments(self, moments: Mapping[str, Tensor | Sharded], source: str) -> None:
        """Raise `UserError` unless the moments in `source` are those of the parameters and of the optimiser."""
        for key in moments:
            kind, _, name = key.partition("/")
            if name not in self._parameters or kind not in _MOMENTS:
                raise UserError(f"{source} does not fit the network of config.json: {key[:200]!r} is not in it")
        kept_by, chosen = optimizer_of_moments(moments), self._settings.train.optimizer
        if moments and chosen != kept_by and matrices(self.model.network):
            raise UserError(f"`train.optimizer` is {chosen}, but {source} holds the state of the optimiser {kept_by}")
        for key, value in moments.items():
            kind, parameter = self._of_moment(key)
            if value.shape != (() if kind == "step" else parameter.shape):
                raise UserError(f"{source} does not fit the network of config.json: {key!r} has another shape")


def _copied(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor, sharded as it is."""
    return sharded_as(tensor, local(tensor.detach()).clone())


def _by_name(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the tensors in the order of their names, which is the same in all processes and after resuming."""
    return dict(sorted(tensors.items()))


@torch.no_grad()
def _assign(own: Mapping[str, Tensor], values: Mapping[str, Tensor], source: str) -> None:
    """Copy `values` to the tensors of a network."""
    require_fit({name: tensor.shape for name, tensor in own.items()}, values, source)
    for name, value in values.items():
        local(own[name]).copy_(local(value))
