"""The batch of a training step: examples, noise and noise levels.

Everything random is a function of the seed, the step and the place of an example in its batch, and the order of the
data one of (seed, epoch), so any step can be repeated exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Conditions, drop
from diffcore.denoising.losses import VARIANCE_STEPS
from diffcore.plugins.data import Data
from diffcore.process.gaussian import perturb
from diffcore.runs.model import Model
from diffcore.runs.settings import RunSettings
from diffcore.states.level import Levels
from diffcore.states.noise import Draws, generator_for, seed_of, uniform
from diffcore.states.placement import to_device
from diffcore.states.spaces import Mask
from diffcore.states.state import State, map_fields
from diffcore.system.distributed import rank_slice, world


@dataclass(frozen=True)
class Batch:
    """This process's share of the examples of a step, `[B]` of them, with their noise."""

    x0: State
    noise: State
    level: Levels
    """The noise level of each example, `[B]`."""
    earlier_log_snr: Tensor
    """The log-SNR at time t - 1 / T, `[B]`, where t is the time of `level` and T is `VARIANCE_STEPS`.

    A network that predicts variances learns that of the denoising step from t to t - 1 / T.
    """
    conditions: Conditions
    """All conditions of the examples."""
    kept_conditions: Conditions
    """The conditions that a denoiser receives: each is dropped with probability `train.condition_dropout`."""
    mask: Mask
    dropout_seed: int
    """The seed for random numbers that layers draw themselves, such as dropout."""
    weight: float
    """Factor of the mean loss of this batch: with it, the mean over processes is the mean over all examples."""

    @property
    def noisy(self) -> State:
        """The noisy states x_t = alpha x0 + sigma noise."""
        return perturb(self.x0, self.noise, self.level)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `change` applied to each of its tensors, always in the same order."""
        return replace(
            self,
            x0=map_fields(change, self.x0),
            noise=map_fields(change, self.noise),
            level=self.level.map(change),
            earlier_log_snr=change(self.earlier_log_snr),
            conditions={name: change(value) for name, value in self.conditions.items()},
            kept_conditions={name: change(value) for name, value in self.kept_conditions.items()},
            mask=None if self.mask is None else change(self.mask),
        )

    def split(self, parts: int) -> "list[Batch]":
        """The batch in `parts` consecutive parts of sizes that differ by at most one.

        The sum of their losses, each with its `weight`, is the loss of the batch.
        """
        if parts == 1:
            return [self]
        size = self.x0.shape[0]
        bounds = [size * part // parts for part in range(parts + 1)]
        return [
            replace(
                self.map(lambda tensor, rows=slice(start, end): tensor[rows]),  # type: ignore[misc]
                dropout_seed=seed_of("part", self.dropout_seed, start) if start else self.dropout_seed,
                weight=self.weight * (end - start) / size,
            )
            for start, end in pairwise(bounds)
        ]


def draw_batch(model: Model, settings: RunSettings, data: Data, step: int) -> Batch:
    """Return the batch of step `step`, counted from 0.

    Each process reads, encodes and noises its own share of the examples only. The random numbers of an example depend
    on its place in the whole batch, so a step is the same for any number of processes.

    The times of a batch are stratified: t_i = (u + i / B) mod 1 with one u, which lowers the variance of the loss
    (Kingma et al. 2021, appendix I.1).
    """
    options, batch = settings.train, settings.train.batch_size
    mine = rank_slice(batch)
    numbers = range(step * batch + mine.start, step * batch + mine.stop)
    draws = Draws.of(seed_of(settings.seed, "training"), numbers, model.device)
    augmentation = replace(draws, seed=seed_of(settings.seed, "augmentation"))

    chosen = batch_indices(len(data.examples), batch, step, settings.seed)[mine.start : mine.stop]
    with torch.no_grad():
        encoded = model.codec.encode(_rows(data.examples, chosen, model.device), augmentation)
    offset = uniform(settings.seed, "time", torch.tensor([step]), dtype=torch.float64)
    t = (offset + torch.tensor(mine, dtype=torch.float64) / batch) % 1

    conditions = model.codec.conditions
    u = draws.uniform("dropped", len(conditions))

    def log_snr(time: Tensor) -> Tensor:
        return to_device(model.schedule.log_snr(time), model.device)

    return Batch(
        x0=encoded.state,
        noise=model.codec.space.noise(draws.normal("noise", encoded.state), encoded.mask),
        level=model.schedule.level(log_snr(t)),
        earlier_log_snr=log_snr((t - 1 / VARIANCE_STEPS).clamp(min=0)),
        conditions=encoded.conditions,
        kept_conditions=drop(conditions, encoded.conditions, options.condition_dropout, u),
        mask=encoded.mask,
        dropout_seed=seed_of(settings.seed, "dropout", step, *([mine.start] if mine.start else [])),
        weight=len(mine) * world() / batch,
    )


def _rows(examples: TensorDict, chosen: Tensor, device: torch.device) -> TensorDict:
    """The examples `chosen`, on `device`. Where the examples are there already, no step waits for a copy."""
    if examples.device is not None and examples.device.type == device.type:
        return examples[to_device(chosen, device)]
    return examples[chosen].to(device)


def resident(data: Data, device: torch.device) -> Data:
    """The data with all examples on `device`, if it is a GPU and they fill at most a quarter of its free memory."""
    if device.type != "cuda":
        return data
    size = sum(value.numel() * value.element_size() for value in data.examples.values(True, True))
    free, _ = torch.cuda.mem_get_info(device)
    return replace(data, examples=data.examples.to(device)) if 4 * size <= free else data


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator_for(seed, "order", epoch))


def batch_indices(n: int, batch: int, step: int, seed: int) -> Tensor:
    """Return the indices of the examples of step `step`, `[batch]`, of `n` examples.

    Shuffled epochs follow each other without a gap, so a batch may span two; each epoch has each example once.
    """
    start, end = step * batch, (step + 1) * batch
    pieces = []
    while start < end:
        epoch, offset = divmod(start, n)
        pieces.append(_permutation(n, seed, epoch)[offset : offset + end - start])
        start += len(pieces[-1])
    return torch.cat(pieces)
