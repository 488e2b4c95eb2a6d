"""The batch of a training step: examples and, for tasks that need them, noise and noise levels.

Everything random is a function of the seed, the step and the place of an example in its batch, and the order of the
data one of (seed, epoch), so any step can be repeated exactly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Self

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Conditions, drop
from diffcore.denoising.known import known_in, told
from diffcore.denoising.losses import VARIANCE_STEPS
from diffcore.plugins.data import Codec, Data, sides_of
from diffcore.process.gaussian import perturb
from diffcore.process.variances import LogSnr
from diffcore.runs.model import Model
from diffcore.runs.settings import RunSettings
from diffcore.states.level import Levels
from diffcore.states.noise import Draws, generator_for, seed_of, uniform
from diffcore.states.partly import inserted, partly, placed
from diffcore.states.placement import to_device
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, first_field, map_fields
from diffcore.system.distributed import rank_slice, world
from diffcore.system.mapped import any_mapped
from diffcore.tasks.ahead import Ahead
from diffcore.tasks.buckets import sorted_indices, trimmed
from diffcore.tasks.levels import level_at, log_snrs_of, map_log_snr


@dataclass(frozen=True)
class Examples:
    """This process's share of the examples of a step, `[B]` of them."""

    x0: State
    conditions: Conditions
    """All conditions of the examples."""
    kept_conditions: Conditions
    """The conditions that a denoiser receives: each is dropped with probability `train.condition_dropout`."""
    mask: Mask
    dropout_seed: int
    """The seed for random numbers that layers draw themselves, such as dropout."""
    weight: float
    """Factor of the mean loss of this batch: with it, the mean over processes is the mean over all examples."""
    places: range
    """The places of the examples in the batch of all processes."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The batch with `change` applied to each of its tensors, always in the same order."""
        return replace(
            self,
            x0=map_fields(change, self.x0),
            conditions={name: change(value) for name, value in self.conditions.items()},
            kept_conditions={name: change(value) for name, value in self.kept_conditions.items()},
            mask=None if self.mask is None else change(self.mask),
        )

    def split(self, parts: int) -> list[Self]:
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
                places=self.places[start:end],
            )
            for start, end in pairwise(bounds)
        ]


@dataclass(frozen=True)
class Batch(Examples):
    """This process's share of the examples of a step, with their noise."""

    noise: State
    level: Levels
    """The noise level of each example, `[B]`, or those of its fields."""
    earlier_log_snr: LogSnr
    """The log-SNR at time t - 1 / T, `[B]` or by field, where t is the time of `level` and T is `VARIANCE_STEPS`.

    A network that predicts variances learns that of the denoising step from t to t - 1 / T.
    """

    @property
    def noisy(self) -> State:
        """The noisy states x_t = alpha x0 + sigma noise, and x0 where it is known."""
        noisy, known = perturb(self.x0, self.noise, self.level), known_in(self.kept_conditions)
        return noisy if known is None else inserted(noisy, self.x0, known)

    def space_of(self, codec: Codec) -> Space:
        """The space of the noise: that of the states, or of what is not known of them."""
        known = known_in(self.kept_conditions)
        return codec.space if known is None else partly(codec.space, known)

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The batch with `change` applied to each of its tensors, always in the same order."""
        return replace(
            super().map(change),
            noise=map_fields(change, self.noise),
            level=self.level.map(change),
            earlier_log_snr=map_log_snr(change, self.earlier_log_snr),
        )


def draw_examples(model: Model, settings: RunSettings, data: Data, step: int) -> Examples:
    """Return the examples of step `step`, counted from 0, without noise: the batch of tasks that need none.

    Each process reads and encodes its own share of the examples only.
    """
    return Examples(**_share(model, settings, data, step, _draws(settings, step, model.device)))


def draw_batch(model: Model, settings: RunSettings, data: Data, step: int) -> Batch:
    """Return the batch of step `step`, counted from 0.

    Each process reads, encodes and noises its own share of the examples only. The random numbers of an example depend
    on its place in the whole batch, so a step is the same for any number of processes.

    The times of the examples are those of `times`.
    """
    draws = _draws(settings, step, model.device)
    examples = _share(model, settings, data, step, draws)
    space = model.codec.space
    if settings.levels.known:
        known = _known(model.codec, examples, settings.levels.known, draws)
        space = partly(space, known)
        examples["x0"] = placed(examples["x0"], space, examples["mask"])
        examples["kept_conditions"] = {**examples["kept_conditions"], **told(known)}
    noise = space.noise(draws.normal("noise", examples["x0"]), examples["mask"])
    t = times(settings, step)
    on_cpu = _draws(settings, step, "cpu")  # the times are computed in float64 there
    log_snrs = log_snrs_of(model.schedule, settings.levels, t, 1 / VARIANCE_STEPS, on_cpu, sides_of(model.codec))
    log_snr, earlier = (map_log_snr(lambda value: to_device(value, model.device), each) for each in log_snrs)
    return Batch(
        **examples,
        noise=_distorted(noise, log_snr, settings, draws) if settings.train.distorted else noise,
        level=level_at(model.schedule, log_snr),
        earlier_log_snr=earlier,
    )


def _distorted(noise: State, log_snr: LogSnr, settings: RunSettings, draws: Draws) -> State:
    """The noise, which is larger than the level says in a fraction `train.distorted` of the examples.

    eps + c eps' with c = `train.distortion` and normal eps' is sqrt(1 + c^2) eps in distribution. As x0 stays, the
    network learns to correct states that are farther from the data than it is told (Ning et al. 2023, algorithm 1, with
    the target x0 in place of eps). Fields of a log-SNR below 0 are left as they are.
    """
    chosen = draws.uniform("distorted", 1)[:, 0] < settings.train.distorted
    factor = (1 + settings.train.distortion**2) ** 0.5

    def of(level: Tensor) -> Tensor:
        return torch.where(chosen & (level > 0), factor, 1.0).to(first_field(noise).dtype)

    return combine((map_log_snr(of, log_snr), noise))


def times(settings: RunSettings, step: int) -> Tensor:
    """The time of each of this process's examples of a step, float64 on the CPU, in [0, 1).

    They are stratified: t_i = (u + i / B) mod 1 with one u, which lowers the variance of the loss (Kingma et al. 2021,
    appendix I.1).
    """
    offset = uniform(settings.seed, "time", torch.tensor([step]), dtype=torch.float64)
    batch = settings.train.batch_size
    return (offset + torch.tensor(rank_slice(batch), dtype=torch.float64) / batch) % 1


def _known(codec: Any, examples: Mapping[str, Any], share: float, draws: Draws) -> State:
    """What is known of each example: a part that the codec draws, in a `share` of them."""
    known = codec.draw_known(examples["x0"], examples["mask"], replace(draws, seed=seed_of(draws.seed, "known")))
    chosen = draws.uniform("has known", 1)[:, 0] < share
    return map_fields(lambda flag: flag & chosen.reshape(-1, *[1] * (flag.ndim - 1)), known)


def _draws(settings: RunSettings, step: int, device: torch.device | str) -> Draws:
    """The random numbers of this process's examples of a step, on the device."""
    batch = settings.train.batch_size
    mine = rank_slice(batch)
    numbers = range(step * batch + mine.start, step * batch + mine.stop)
    return Draws.of(seed_of(settings.seed, "training"), numbers, device)


def _share(model: Model, settings: RunSettings, data: Data, step: int, draws: Draws) -> dict[str, Any]:
    """The fields of `Examples`, for the examples of this process."""
    batch, conditions = settings.train.batch_size, model.codec.conditions
    mine = rank_slice(batch)
    whole = _chosen(settings, data, step)
    chosen = whole[mine.start : mine.stop]
    augmentation = replace(draws, seed=seed_of(settings.seed, "augmentation"))
    if data.ahead is None:
        rows = _rows(data.examples, chosen, model.device)
    else:
        rows = data.ahead.rows(step, chosen).to(model.device, non_blocking=True)
    with torch.no_grad():
        encoded = model.codec.encode(rows, augmentation)
    if data.sizes is not None:
        encoded = trimmed(encoded, model.codec.space, int(data.sizes[whole].max()))
    u = draws.uniform("dropped", len(conditions))
    return {
        "x0": encoded.state,
        "conditions": encoded.conditions,
        "kept_conditions": drop(conditions, encoded.conditions, settings.train.condition_dropout, u),
        "mask": encoded.mask,
        "dropout_seed": seed_of(settings.seed, "dropout", step, *([mine.start] if mine.start else [])),
        "weight": len(mine) * world() / batch,
        "places": mine,
    }


def _chosen(settings: RunSettings, data: Data, step: int) -> Tensor:
    """The indices of the examples of a step, of similar sizes where the data have `sizes`."""
    n, batch, seed = len(data.examples), settings.train.batch_size, settings.seed
    if data.sizes is None:
        return batch_indices(n, batch, step, seed)
    window, number = divmod(step, settings.train.buckets)
    indices = batch_indices(n, batch * settings.train.buckets, window, seed)
    return sorted_indices(indices, data.sizes, batch, seed, window)[number]


def _rows(examples: TensorDict, chosen: Tensor, device: torch.device) -> TensorDict:
    """The examples `chosen`, on `device`. Where the examples are there already, no step waits for a copy."""
    if examples.device is not None and examples.device.type == device.type:
        return examples[to_device(chosen, device)]
    return examples[chosen].to(device)


def read_ahead(data: Data, settings: RunSettings, device: torch.device) -> Data:
    """The data with what reads batches ahead of the steps, if the examples are mapped from files."""
    if not any_mapped(data.examples):
        return data

    def numbers(step: int) -> Tensor:
        mine = rank_slice(settings.train.batch_size)
        return _chosen(settings, data, step)[mine.start : mine.stop]

    return replace(data, ahead=Ahead(data.examples, numbers, device.type == "cuda"))


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
