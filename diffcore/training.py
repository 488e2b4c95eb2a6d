"""The training loop.

Everything random in step k is drawn from generators seeded with (seed, k), and the order of the data from
(seed, epoch). A run that was stopped and resumed therefore does what an unbroken one does: on the CPU, bit for
bit.
"""

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from diffcore import ema
from diffcore.assembly import Model, load_weights
from diffcore.checkpoints import (
    EMA,
    MODEL,
    TRAINING,
    Progress,
    discard_after,
    read_progress,
    read_tensors,
    write_checkpoint,
)
from diffcore.conditions import drop
from diffcore.config import RunSettings, TrainSettings
from diffcore.data import Data
from diffcore.errors import UserError
from diffcore.losses import VARIANCE_STEPS, denoising_loss, hybrid_loss
from diffcore.noise import generator_for, seed_of
from diffcore.process import perturb
from diffcore.runs import Run, append_metrics, trim_metrics
from diffcore.state import map_fields

_LOSSES = "losses since the last line of metrics"


@dataclass(frozen=True)
class Pulse:
    """What the loop tells whoever watches it, every `log_every` steps."""

    step: int
    done: float
    """Share of the training that is behind, 0 to 1."""
    seconds: float
    loss: float
    """Mean of the latest steps: per degree of freedom, or in nats where conditions are predicted."""
    examples_per_second: float


@dataclass(frozen=True)
class Watcher:
    """What happens beside training.

    `pulse` and `logged` come with each line of metrics, `sample` with the averaged model at times, `saved` with each
    checkpoint.
    """

    pulse: Callable[[Pulse], None] = lambda pulse: None
    sample: Callable[[Model, int], None] = lambda model, step: None
    logged: Callable[[Mapping[str, float]], None] = lambda row: None
    saved: Callable[[int, Path], None] = lambda step, path: None


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    progress: Progress
    interrupted: bool
    model: Model
    """The model with averaged weights."""


def train(
    run: Run,
    settings: RunSettings,
    model: Model,
    data: Data,
    watcher: Watcher,
    checkpoint: Path | None = None,
) -> Outcome:
    """Train `model` on `data` until the settings' steps or minutes are over, or an interrupt asks to stop.

    With `checkpoint`, go on from there. The end is always a checkpoint. Raises `UserError` where the loss stops
    being a number; the checkpoints before that stay.
    """
    options = settings.train
    require_end(options)
    network = model.network
    parameters = dict(network.named_parameters())
    optimizer = torch.optim.Adam(
        parameters.values(), lr=options.learning_rate, betas=(0.9, 0.99), fused=model.device.type in ("cpu", "cuda")
    )
    averaged = replace(model, network=copy.deepcopy(network).requires_grad_(False))
    progress = Progress()
    unlogged: list[Tensor] = []  # losses since the last line of metrics
    if checkpoint is not None:
        progress = read_progress(checkpoint)
        load_weights(model, checkpoint, MODEL)
        load_weights(averaged, checkpoint, EMA)
        state = read_tensors(checkpoint, TRAINING)
        unlogged = list(state.pop(_LOSSES, torch.empty(0)).to(model.device))
        _restore(optimizer, parameters, state, checkpoint)
    trim_metrics(run, progress.step)
    discard_after(run, progress.step)

    def save(at: Progress) -> None:
        if unlogged:
            _require_finite(unlogged[-1].item(), at.step, options, run)
        files = {
            MODEL: network.state_dict(),
            EMA: averaged.network.state_dict(),
            TRAINING: {_LOSSES: torch.tensor(unlogged), **_optimizer_tensors(optimizer, parameters)},
        }
        watcher.saved(at.step, write_checkpoint(run, at, files, options.keep_checkpoints))

    first, before, started = progress.step, progress.seconds, time.perf_counter()

    def aside(work: Callable[..., None], *arguments: Any) -> None:
        """Do something that is not training time."""
        nonlocal started
        paused = time.perf_counter()
        work(*arguments)
        started += time.perf_counter() - paused

    average = list(averaged.network.parameters())
    weights = list(parameters.values())
    saved = progress.step if checkpoint is not None else -1
    network.train()
    with _stop_requests() as stop_requested:
        while not stop_requested() and share_done(options, progress) < 1:
            step = progress.step
            optimizer.param_groups[0]["lr"] = learning_rate(options, step)
            loss = step_loss(model, settings, data, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, options.gradient_clip, foreach=True)
            optimizer.step()
            ema.update(average, weights, ema.power_decay(step + 1, options.ema_width))
            unlogged.append(loss.detach())
            progress = Progress(step + 1, before + time.perf_counter() - started)

            if progress.step % options.log_every == 0:
                mean = torch.stack(unlogged).double().mean().item()
                unlogged.clear()
                _require_finite(mean, progress.step, options, run)
                rate = (progress.step - first) * options.batch_size / (progress.seconds - before)
                share = share_done(options, progress)
                watcher.pulse(Pulse(progress.step, share, progress.seconds, mean, rate))
                row = _row(options, progress, mean, rate)
                append_metrics(run, [row])
                aside(watcher.logged, row)
            if progress.step % options.checkpoint_every == 0:
                aside(save, progress)
                saved = progress.step
            if progress.step % options.sample_every == 0:
                aside(watcher.sample, averaged, progress.step)
        interrupted = share_done(options, progress) < 1
        if saved != progress.step:
            save(progress)
    averaged.network.eval()
    return Outcome(progress, interrupted, averaged)


def step_loss(model: Model, settings: RunSettings, data: Data, step: int) -> Tensor:
    """The mean loss of the batch of step `step`: a scalar to differentiate.

    For a denoiser it is the weighted denoising loss, for a predictor -log p(c | x_t) of the conditions.

    A network that gives variances learns them too, by the hybrid loss, in steps of 1 / T of the time.
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
    level = model.schedule.level(model.schedule.log_snr(t).to(model.device))
    conditions = drop(model.codec.conditions, encoded.conditions, options.condition_dropout, cpu)

    # Noise is the one large draw: it is made where it is used.
    own = torch.Generator(model.device).manual_seed(seed_of(settings.seed, "noise", step))
    normal = map_fields(lambda f: torch.randn(f.shape, generator=own, device=f.device, dtype=f.dtype), x0)
    noise = model.codec.space.noise(normal, mask)
    torch.manual_seed(seed_of(settings.seed, "dropout", step))  # what layers draw by themselves
    noisy, space = perturb(x0, noise, level), model.codec.space
    if settings.task == "predict":
        return -model.predictor.log_likelihood(noisy, level, encoded.conditions, mask).mean()
    prediction = model.denoiser(noisy, level, conditions, mask)
    if prediction.variance is None:
        return denoising_loss(prediction, x0, noise, space, options.weighting, mask).mean()
    clean = model.schedule.log_snr((t - 1 / VARIANCE_STEPS).clamp(min=0)).to(model.device)
    return hybrid_loss(prediction, x0, noise, space, clean, options.weighting, mask).mean()


def learning_rate(options: TrainSettings, step: int) -> float:
    """Linear warm-up, then constant, then falling with 1 / sqrt(step). Karras et al. 2024, eq. 67.

    It does not depend on where training ends, so a longer run goes on exactly where a shorter one stopped; the
    moving average of the weights does what a decay to zero would do.
    """
    warm = min(1.0, (step + 1) / max(options.warmup_steps, 1))
    return options.learning_rate * warm / math.sqrt(max(1.0, step / options.decay_after))


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


def _require_finite(loss: float, step: int, options: TrainSettings, run: Run) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}; lower --train.learning_rate (it is {options.learning_rate:g}). "
            f"Checkpoints before that are in {run.checkpoints}"
        )


def require_end(options: TrainSettings) -> None:
    """Raise `UserError` where nothing says when training ends."""
    if options.steps is None and options.minutes is None:
        raise UserError("how long? give --train.steps N or --train.minutes M")


def share_done(options: TrainSettings, progress: Progress) -> float:
    """How much of the training is behind, 0 to 1 and beyond."""
    steps = progress.step / options.steps if options.steps else 0.0
    minutes = progress.seconds / (60 * options.minutes) if options.minutes else 0.0
    return max(steps, minutes)


def _row(options: TrainSettings, progress: Progress, loss: float, rate: float) -> dict[str, float | int]:
    return {
        "step": progress.step,
        "seconds": round(progress.seconds, 2),
        "loss": loss,
        "learning_rate": learning_rate(options, progress.step - 1),
        "examples_per_second": round(rate, 1),
    }


def _optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Adam's moments by parameter name: `exp_avg/backbone...`."""
    return {
        f"{key}/{name}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def _restore(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor], source: Path
) -> None:
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if name not in parameters:
            raise UserError(f"{source / TRAINING} does not fit the network of config.json: {name} is not in it")
        parameter = parameters[name]
        # The fused optimiser pairs memory, not indices: moments must be laid out as their parameter is.
        kept = value.to(parameter.device) if kind == "step" else torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][kind] = kept.detach()


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a request that the loop sees between two steps.

    A second one interrupts at once. Outside the main thread signals are left alone.
    """
    requested = False

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, request)
    except ValueError:  # not the main thread
        pass
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
