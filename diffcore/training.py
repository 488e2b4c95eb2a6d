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

from diffcore import divergence, ema
from diffcore.assembly import Model, load_weights
from diffcore.checkpoints import (
    EMA,
    MODEL,
    TRAINING,
    Progress,
    discard_after,
    newest_sound,
    read_progress,
    read_tensors,
    rewrite_progress,
    step_of,
    verify,
    write_checkpoint,
)
from diffcore.conditions import Conditions, drop
from diffcore.config import RunSettings, TrainSettings
from diffcore.data import Data
from diffcore.errors import UserError
from diffcore.levels import Level
from diffcore.losses import VARIANCE_STEPS, denoising_loss, field_losses, hybrid_loss
from diffcore.noise import generator_for, seed_of
from diffcore.process import perturb
from diffcore.progress import say
from diffcore.runs import Run, append_metrics, sync_metrics, trim_metrics
from diffcore.spaces import Mask
from diffcore.state import State, fields, map_fields

_LOSSES = "losses since the last line of metrics"
_HISTORY = "losses of lines of metrics"


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

    With `checkpoint`, go on from there. The end is always a checkpoint, and no checkpoint has weights that are no
    numbers. Where the loss diverges (see `diffcore.divergence`), training goes back to the last good weights with a
    lower learning rate, or raises `UserError`, as `on_divergence` says; the checkpoints before that stay.
    """
    options = settings.train
    require_end(options)
    network = model.network
    parameters = dict(network.named_parameters())
    optimizer = torch.optim.Adam(
        parameters.values(), lr=options.learning_rate, betas=(0.9, 0.99), fused=model.device.type in ("cpu", "cuda")
    )
    averaged = replace(model, network=copy.deepcopy(network).requires_grad_(False))
    average, weights = list(averaged.network.parameters()), list(parameters.values())
    # Where training begins, for a step back before there is a checkpoint.
    initial = copy.deepcopy(network.state_dict()) if checkpoint is None else None
    progress, good = Progress(), checkpoint
    unlogged: list[Tensor] = []  # losses since the last line of metrics
    history: list[float] = []  # of lines of metrics, as `diffcore.divergence` remembers them

    def put_back(source: Path | None) -> None:
        """Give everything that training changes the values that it had at a checkpoint, or at the beginning."""
        nonlocal unlogged, history
        optimizer.state.clear()
        if source is None:
            assert initial is not None
            network.load_state_dict(initial)
            averaged.network.load_state_dict(initial)
            unlogged, history = [], []
            return
        load_weights(model, source, MODEL)
        load_weights(averaged, source, EMA)
        state = read_tensors(source, TRAINING)
        unlogged = list(state.pop(_LOSSES, torch.empty(0)).flatten()[: options.log_every].to(model.device))
        history = state.pop(_HISTORY, torch.empty(0)).flatten()[: divergence.WINDOW + 1].tolist()
        _restore(optimizer, parameters, state, source)

    if checkpoint is not None:
        progress = read_progress(checkpoint)
        put_back(checkpoint)
    trim_metrics(run, progress.step, progress.steps_back)
    discard_after(run, progress.step)

    def save(at: Progress) -> None:
        nonlocal good, initial
        losses = torch.stack(unlogged).tolist() if unlogged else []
        divergence.require_sound(losses, at.step, history, options.explosion)
        files = {
            MODEL: network.state_dict(),
            EMA: averaged.network.state_dict(),
            TRAINING: {
                _LOSSES: torch.tensor(losses),
                _HISTORY: torch.tensor(history, dtype=torch.float64),
                **_optimizer_tensors(optimizer, parameters),
            },
        }
        divergence.require_finite(at.step, files)
        sync_metrics(run)
        good = write_checkpoint(run, at, files, options.keep_checkpoints, options.keep_every)
        initial = None
        watcher.saved(at.step, good)

    def advance(step: int, examine: Callable[[float], None] | None = None) -> Tensor:
        """The step with that number, from 0, and its loss; `examine` sees the loss when there are gradients."""
        optimizer.param_groups[0]["lr"] = learning_rate(options, step, progress.steps_back)
        loss = step_loss(model, settings, data, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if examine is not None:
            examine(loss.item())
        nn.utils.clip_grad_norm_(weights, options.gradient_clip, foreach=True)
        optimizer.step()
        ema.update(average, weights, ema.power_decay(step + 1, options.ema_width))
        return loss.detach()

    def step_back(diverged: divergence.DivergedError) -> None:
        """Find out where it began; then go back to the last good weights, or raise `UserError`."""
        nonlocal progress, good
        if initial is None:
            good, _ = newest_sound(run, verify)
        start = 0 if good is None else step_of(good)
        said = f"{diverged} at step {diverged.step}"
        say(f"{said}: doing the steps from {start + 1} on again to see where it began")
        put_back(good)
        where = divergence.retrace(
            start,
            diverged.step,
            advance,
            lambda: {name: value.grad for name, value in parameters.items() if value.grad is not None},
            lambda step: _field_losses(model, settings, data, step),
        )
        kept = f"the last good weights are those of step {start}" + (f", in {good}" if good else ", the initial ones")
        back = progress.steps_back + 1
        rate = options.learning_rate * options.step_back_rate**back
        if options.on_divergence == "stop" or back > options.most_steps_back:
            advice = "lower --train.learning-rate" if options.on_divergence == "stop" else (
                f"training has stepped back {back - 1} times; lower --train.learning-rate"
            )  # fmt: skip
            raise UserError(f"{said}; {where}; {kept}; {advice} (it is {options.learning_rate:g})")
        put_back(good)
        progress = Progress(start, progress.seconds, back)
        say(f"{said}; {where}; stepping back to step {start}, the learning rate is now {rate:g}")
        discard_after(run, start)
        trim_metrics(run, start, back - 1)
        row = {"step": start, "steps_back": back, "from": diverged.step, "learning_rate": rate, "where": where}
        append_metrics(run, [row])
        if good is not None:
            rewrite_progress(good, progress)

    first, before, started = progress.step, progress.seconds, time.perf_counter()

    def aside(work: Callable[..., None], *arguments: Any) -> None:
        """Do something that is not training time."""
        nonlocal started
        paused = time.perf_counter()
        work(*arguments)
        started += time.perf_counter() - paused

    saved = progress.step if checkpoint is not None else -1
    network.train()
    with _stop_requests() as stop_requested:
        while True:
            try:
                while not stop_requested() and share_done(options, progress) < 1:
                    unlogged.append(advance(progress.step))
                    seconds = before + time.perf_counter() - started
                    progress = replace(progress, step=progress.step + 1, seconds=seconds)

                    if progress.step % options.log_every == 0:
                        stacked = torch.stack(unlogged).double()
                        mean = stacked.mean().item()
                        divergence.require_sound(stacked.tolist(), progress.step, history, options.explosion)
                        unlogged.clear()
                        history = divergence.remembered(history, mean)
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
                break
            except divergence.DivergedError as diverged:
                step_back(diverged)
                saved, first, before, started = progress.step, progress.step, progress.seconds, time.perf_counter()
    averaged.network.eval()
    return Outcome(progress, interrupted, averaged)


@dataclass(frozen=True)
class Batch:
    """The examples of a step with their noise."""

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


def draw_batch(model: Model, settings: RunSettings, data: Data, step: int) -> Batch:
    """The batch of step `step`.

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

    def log_snr(time: Tensor) -> Tensor:
        return model.schedule.log_snr(time).to(model.device)

    told = drop(model.codec.conditions, encoded.conditions, options.condition_dropout, cpu)
    # Noise is the one large draw: it is made where it is used.
    own = torch.Generator(model.device).manual_seed(seed_of(settings.seed, "noise", step))
    normal = map_fields(lambda f: torch.randn(f.shape, generator=own, device=f.device, dtype=f.dtype), x0)
    return Batch(
        x0,
        model.codec.space.noise(normal, mask),
        model.schedule.level(log_snr(t)),
        log_snr((t - 1 / VARIANCE_STEPS).clamp(min=0)),
        encoded.conditions,
        told,
        mask,
        seed_of(settings.seed, "dropout", step),
    )


def step_loss(model: Model, settings: RunSettings, data: Data, step: int) -> Tensor:
    """The mean loss of the batch of step `step`: a scalar to differentiate.

    For a denoiser it is the weighted denoising loss, for a predictor -log p(c | x_t) of the conditions. A network that
    gives variances learns them too, by the hybrid loss, in steps of 1 / T of the time.
    """
    batch, space, weighting = draw_batch(model, settings, data, step), model.codec.space, settings.train.weighting
    torch.manual_seed(batch.dropout_seed)
    noisy = perturb(batch.x0, batch.noise, batch.level)
    if settings.task == "predict":
        return -model.predictor.log_likelihood(noisy, batch.level, batch.known, batch.mask).mean()
    prediction = model.denoiser(noisy, batch.level, batch.told, batch.mask)
    if prediction.variance is None:
        return denoising_loss(prediction, batch.x0, batch.noise, space, weighting, batch.mask).mean()
    return hybrid_loss(prediction, batch.x0, batch.noise, space, batch.clean, weighting, batch.mask).mean()


@torch.no_grad()
def _field_losses(model: Model, settings: RunSettings, data: Data, step: int) -> dict[str, float]:
    """What each field of the state has of the denoising loss of step `step`, or each condition of a predictor's.

    Where the data themselves hold what is no number, their fields alone are told.
    """
    batch = draw_batch(model, settings, data, step)
    bad = [name for name, field in fields(batch.x0).items() if not field.isfinite().all()]
    if bad:
        return {f"{name} of the data".strip(): math.nan for name in bad}
    torch.manual_seed(batch.dropout_seed)
    noisy = perturb(batch.x0, batch.noise, batch.level)
    if settings.task == "predict":
        said = model.predictor(noisy, batch.level, batch.mask)
        return {
            condition.name: -condition.log_likelihood(said[condition.name], batch.known[condition.name]).mean().item()
            for condition in model.predictor.conditions
        }
    prediction = model.denoiser(noisy, batch.level, batch.told, batch.mask)
    return field_losses(prediction, batch.x0, batch.noise, model.codec.space, settings.train.weighting, batch.mask)


def learning_rate(options: TrainSettings, step: int, steps_back: int = 0) -> float:
    """Linear warm-up, then constant, then falling with 1 / sqrt(step). Karras et al. 2024, eq. 67.

    Each step back from a loss that diverged multiplies it by `step_back_rate`.

    It does not depend on where training ends, so a longer run goes on exactly where a shorter one stopped; the
    moving average of the weights does what a decay to zero would do.
    """
    warm = min(1.0, (step + 1) / max(options.warmup_steps, 1))
    rate = options.learning_rate * options.step_back_rate**steps_back
    return rate * warm / math.sqrt(max(1.0, step / options.decay_after))


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
        "learning_rate": learning_rate(options, progress.step - 1, progress.steps_back),
        "examples_per_second": round(rate, 1),
    }


def _optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Adam's moments by parameter name: `exp_avg/backbone...`."""
    return {
        f"{key}/{name}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of a parameter."""


def _restore(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor], source: Path
) -> None:
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if name not in parameters or kind not in _MOMENTS:
            raise UserError(f"{source / TRAINING} does not fit the network of config.json: {key[:200]!r} is not in it")
        parameter = parameters[name]
        if value.shape != (() if kind == "step" else parameter.shape):
            raise UserError(f"{source / TRAINING} does not fit the network of config.json: {key!r} has another shape")
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
