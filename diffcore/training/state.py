"""What training changes: a network, the moving average of its weights, and the state of its optimiser."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from diffcore.denoising.precision import compute_in
from diffcore.errors import UserError
from diffcore.plugins.data import Data
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, read_tensors
from diffcore.runs.model import Model, require_fit
from diffcore.runs.settings import RunSettings
from diffcore.system.distributed import lowest, mean
from diffcore.tasks.objective import Objective, draw_batch, losses_by_field
from diffcore.training import averages as ema
from diffcore.training.parallel import collected, distribute, local, require_shards, shard, whole

Tensors = dict[str, Tensor]

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of a parameter."""


class TrainState:
    """A model that learns from `data`, one step at a time; all processes that train it do each step together."""

    def __init__(self, model: Model, settings: RunSettings, data: Data) -> None:
        options = settings.train
        require_shards(options.batch_size, options.parallel, options.compile)
        self.model, self._settings, self._data = model, settings, data
        network = model.network
        self._averaged = replace(model, network=copy.deepcopy(network).requires_grad_(False))
        compute_in(network, options.precision, options.compile)
        compute_in(self._averaged.network, settings.sample.precision, settings.sample.compile)
        self._objective = distribute(Objective(model, settings), network.backbone, options.parallel, model.device)
        self._parameters = dict(network.named_parameters())
        # Where training begins, to go back to before there is a checkpoint.
        self._initial: Tensors | None = {name: value.clone() for name, value in network.state_dict().items()}
        self._optimizer = torch.optim.Adam(
            self._parameters.values(),
            lr=options.learning_rate,
            betas=(0.9, 0.99),
            fused=model.device.type in ("cpu", "cuda"),
        )
        self._shard_average()

    def _shard_average(self) -> None:
        """Keep of the average what this process keeps of the weights."""
        kept, weights = list(self._averaged.network.parameters()), list(self._parameters.values())
        self._average = [shard(whole_one, weight) for whole_one, weight in zip(kept, weights, strict=True)]
        self._is_sharded = any(mine is not whole_one for mine, whole_one in zip(self._average, kept, strict=True))
        self._own_average = [local(tensor.detach()) for tensor in self._average]
        self._own_weights = [local(tensor.detach()) for tensor in weights]

    def advance(self, step: int, rate: float, examine: Callable[[float], None] | None = None) -> Tensor:
        """Do the step with that number, from 0, at that learning rate; its loss, of this process's part.

        `examine` is given the loss of all when there are gradients.
        """
        self._optimizer.param_groups[0]["lr"] = rate
        loss = self._objective(draw_batch(self.model, self._settings, self._data, step))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if examine is not None:
            examine(mean(loss.detach()).item())
        options = self._settings.train
        nn.utils.clip_grad_norm_(self._parameters.values(), options.gradient_clip, foreach=True)
        self._optimizer.step()
        ema.update(self._own_average, self._own_weights, ema.power_decay(step + 1, options.ema_width))
        return loss.detach()

    def unsound_gradient(self) -> str | None:
        """The first parameter whose gradient is no number, the same in all processes."""
        gradients = {name: value.grad for name, value in self._parameters.items() if value.grad is not None}
        sound = [local(gradient).isfinite().all() for gradient in gradients.values()]
        bad = (~torch.stack(sound)).nonzero().flatten() if sound else torch.empty(0)
        first = lowest(int(bad[0]) if len(bad) else len(gradients))
        return list(gradients)[first] if first < len(gradients) else None

    def losses_by_field(self, step: int) -> dict[str, float]:
        """What each field of the state has of the loss of that step, the same in all processes."""
        return losses_by_field(self._objective, draw_batch(self.model, self._settings, self._data, step))

    def averaged(self) -> Model:
        """The model with averaged weights, whole. All processes must ask for it."""
        self._complete().to(self.model.device)
        return self._averaged

    def _complete(self) -> nn.Module:
        """The network with averaged weights; on the CPU where they are spread out."""
        network = self._averaged.network
        if self._is_sharded:
            network.cpu()
            for kept, mine in zip(network.parameters(), self._average, strict=True):
                kept.copy_(whole(mine))
        for counted, own in zip(network.buffers(), self.model.network.buffers(), strict=True):
            counted.copy_(own)  # running statistics of layers are averages already
        return network

    def files(self) -> dict[str, Tensors]:
        """The tensors of a checkpoint by file, whole, in the leader. All processes must ask for them."""
        return {
            MODEL: collected(self.model.network.state_dict()),
            EMA: self._complete().state_dict(),
            TRAINING: collected(self._moments()),
        }

    def go_back(self, checkpoint: Path | None) -> Tensors:
        """Be as at a checkpoint, or as at the beginning; what else the checkpoint's training file holds.

        Raises `UserError` where the checkpoint does not fit the network.
        """
        network, averaged = self.model.network.state_dict(), self._averaged.network.state_dict()
        self._optimizer.state.clear()
        if checkpoint is None:
            assert self._initial is not None, "there is a checkpoint to go back to"
            _assign(network, self._initial, "the beginning")
            _assign(averaged, {name: whole(self._initial[name]) for name in sorted(self._initial)}, "the beginning")
            self._shard_average()
            return {}
        _assign(network, read_tensors(checkpoint, MODEL), str(checkpoint / MODEL))
        _assign(averaged, read_tensors(checkpoint, EMA), str(checkpoint / EMA))
        self._shard_average()
        state = read_tensors(checkpoint, TRAINING)
        self._restore_moments({key: value for key, value in state.items() if "/" in key}, str(checkpoint / TRAINING))
        return {key: value for key, value in state.items() if "/" not in key}

    def forget_beginning(self) -> None:
        """There is a checkpoint to go back to: the initial weights need not be kept."""
        self._initial = None

    @property
    def remembers_beginning(self) -> bool:
        """Whether there is no checkpoint to go back to yet."""
        return self._initial is not None

    def _moments(self) -> Tensors:
        """Adam's moments by parameter name: `exp_avg/backbone...`."""
        return {
            f"{key}/{name}": torch.as_tensor(value)
            for name, parameter in self._parameters.items()
            for key, value in self._optimizer.state[parameter].items()
        }

    def _restore_moments(self, moments: Tensors, source: str) -> None:
        for key, value in moments.items():
            kind, _, name = key.partition("/")
            if name not in self._parameters or kind not in _MOMENTS:
                raise UserError(f"{source} does not fit the network of config.json: {key[:200]!r} is not in it")
            parameter = self._parameters[name]
            if value.shape != (() if kind == "step" else parameter.shape):
                raise UserError(f"{source} does not fit the network of config.json: {key!r} has another shape")
            if kind == "step":
                kept = value.to(parameter.device)
            else:  # the fused optimiser pairs memory, not indices: moments must be laid out as their parameter is
                kept = torch.empty_like(parameter).copy_(shard(value, parameter))
            self._optimizer.state[parameter][kind] = kept.detach()


@torch.no_grad()
def _assign(own: Mapping[str, Tensor], values: Mapping[str, Tensor], source: str) -> None:
    """Give the tensors of a network their values, of which this process may keep a share."""
    require_fit({name: tensor.shape for name, tensor in own.items()}, values, source)
    for name, value in values.items():
        own[name].copy_(value if type(value) is type(own[name]) else shard(value, own[name]))
