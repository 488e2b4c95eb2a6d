"""What a step of training makes small: the batch that it draws, and the loss of it.

Everything random in step k is drawn from generators seeded with (seed, k), and the order of the data from
(seed, epoch), so any step can be done again.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions import Conditions, drop
from diffcore.denoising.losses import VARIANCE_STEPS, denoising_loss, field_losses, hybrid_loss
from diffcore.plugins.data import Data
from diffcore.process.gaussian import perturb
from diffcore.runs.model import Model
from diffcore.runs.settings import RunSettings
from diffcore.states.level import Level
from diffcore.states.noise import generator_for, seed_of
from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields, map_fields
from diffcore.system.distributed import mean, rank_slice, world


@dataclass(frozen=True)
class Batch:
    """The examples of a step that are this process's, with their noise."""

    x0: State
    noise: State
    level: Level
    clean: Tensor
    """The log-SNR a little earlier in time than that of `level`: the step whose variance may be learned."""
    known: Conditions
    """What is known of the examples."""
    told: Conditions
    """What the denoiser is told of them: some conditions are left out."""
    mask: Mask
    dropout_seed: int
    """For what layers draw by themselves."""
    weight: float
    """What the mean over this batch counts for, so that the mean over processes is that over all examples."""

    @property
    def noisy(self) -> State:
        """The noisy states."""
        return perturb(self.x0, self.noise, self.level)


def draw_batch(model: Model, settings: RunSettings, data: Data, step: int) -> Batch:
    """The batch of step `step`.

    All that is random is drawn for the examples of all processes, of which each then takes its part: a step is the
    same whatever their number.

    The levels of a batch are stratified: t_i = (u + i / B) mod 1 with one u, which lowers the variance of the
    loss (Kingma et al. 2021, appendix I.1).
    """
    options = settings.train
    cpu = generator_for(settings.seed, "step", step)
    chosen = batch_indices(len(data.examples), options.batch_size, step, settings.seed)
    encoded = model.codec.encode(data.examples[chosen].to(model.device), cpu)
    x0, mask = encoded.state, encoded.mask
    batch = x0.shape[0]
    t = (torch.rand((), generator=cpu, dtype=torch.float64) + torch.arange(batch, dtype=torch.float64) / batch) % 1
    told = drop(model.codec.conditions, encoded.conditions, options.condition_dropout, cpu)

    # Noise is the one large draw: it is made where it is used.
    own = torch.Generator(model.device).manual_seed(seed_of(settings.seed, "noise", step))
    normal = map_fields(lambda f: torch.randn(f.shape, generator=own, device=f.device, dtype=f.dtype), x0)

    def log_snr(time: Tensor) -> Tensor:
        return model.schedule.log_snr(time).to(model.device)

    mine = rank_slice(batch)
    rows = slice(mine.start, mine.stop)
    mask = None if mask is None else mask[rows]
    return Batch(
        x0[rows],
        model.codec.space.noise(normal[rows], mask),
        model.schedule.level(log_snr(t[rows])),
        log_snr((t[rows] - 1 / VARIANCE_STEPS).clamp(min=0)),
        {name: value[rows] for name, value in encoded.conditions.items()},
        {name: value[rows] for name, value in told.items()},
        mask,
        seed_of(settings.seed, "dropout", step, *([mine.start] if mine.start else [])),
        len(mine) * world() / batch,
    )


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator_for(seed, "order", epoch))


def batch_indices(n: int, batch: int, step: int, seed: int) -> Tensor:
    """The examples of step `step`, `[batch]`: shuffled epochs laid end to end, each example once an epoch."""
    start, end = step * batch, (step + 1) * batch
    pieces = []
    while start < end:
        epoch, offset = divmod(start, n)
        pieces.append(_permutation(n, seed, epoch)[offset : offset + end - start])
        start += len(pieces[-1])
    return torch.cat(pieces)


class Objective(nn.Module):
    """A model's network and what it is trained to make small."""

    def __init__(self, model: Model, settings: RunSettings) -> None:
        super().__init__()
        self.network = model.network
        self.model, self.settings = model, settings

    def forward(self, batch: Batch, by_field: bool = False) -> Tensor | dict[str, float]:
        """The mean loss of the batch, times its weight: a scalar to differentiate.

        For a denoiser it is the weighted denoising loss, for a classifier -log p(c | x_t) of the conditions. A network
        that gives variances learns them too, by the hybrid loss, in steps of 1 / T of the time.

        With `by_field`, numbers by name: what each field of the state has of the denoising loss, or each condition of
        a classifier's. All that goes through the network goes through here, as several processes may share its weights.
        """
        torch.manual_seed(batch.dropout_seed)
        if self.settings.task == "classify":
            return self._classifying(batch, by_field)
        model, space, weighting = self.model, self.model.codec.space, self.settings.train.weighting
        prediction = model.denoiser(batch.noisy, batch.level, batch.told, batch.mask)
        if by_field:
            found = field_losses(prediction, batch.x0, batch.noise, space, weighting, batch.mask)
            return {name: batch.weight * value for name, value in found.items()}
        if prediction.variance is None:
            loss = denoising_loss(prediction, batch.x0, batch.noise, space, weighting, batch.mask)
        else:
            loss = hybrid_loss(prediction, batch.x0, batch.noise, space, batch.clean, weighting, batch.mask)
        return batch.weight * loss.mean()

    def _classifying(self, batch: Batch, by_field: bool) -> Tensor | dict[str, float]:
        classifier = self.model.classifier
        if not by_field:
            return -batch.weight * classifier.log_likelihood(batch.noisy, batch.level, batch.known, batch.mask).mean()
        said = classifier(batch.noisy, batch.level, batch.mask)
        return {
            condition.name: -batch.weight
            * condition.log_likelihood(said[condition.name], batch.known[condition.name]).mean().item()
            for condition in classifier.conditions
        }


def step_loss(model: Model, settings: RunSettings, data: Data, step: int) -> Tensor:
    """The mean loss of the batch of step `step`: a scalar to differentiate."""
    return Objective(model, settings)(draw_batch(model, settings, data, step))


@torch.no_grad()
def losses_by_field(objective: nn.Module, batch: Batch) -> dict[str, float]:
    """What each field of the state has of the denoising loss of a step, or each condition of a classifier's.

    Where the data themselves hold what is no number, their fields alone are told. It is the same in all processes.
    """
    unsound = {name: float(not field.isfinite().all()) for name, field in fields(batch.x0).items()}
    if bad := [name for name, share in _everywhere(unsound).items() if share]:
        return {f"{name} of the data".strip(): math.nan for name in bad}
    return _everywhere(objective(batch, by_field=True))


def _everywhere(values: dict[str, float]) -> dict[str, float]:
    """The mean over processes of each value."""
    return dict(zip(values, mean(torch.tensor(list(values.values()), dtype=torch.float64)).tolist(), strict=True))
