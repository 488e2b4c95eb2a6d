"""The training loop.

Everything random in step k is drawn from generators seeded with (seed, k), and the order of the data from
(seed, epoch). A run that was stopped and resumed therefore does what an unbroken one does: on the CPU, bit for
bit.
"""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.plugins.data import Data
from diffcore.runs.checkpoints import (
    TRAINING,
    Progress,
    discard_after,
    newest_sound,
    read_progress,
    rewrite_progress,
    step_of,
    verify,
    write_checkpoint,
)
from diffcore.runs.folder import Run, append_log, sync_log, trim_log
from diffcore.runs.model import Model
from diffcore.runs.settings import RunSettings, TrainSettings
from diffcore.system.distributed import agreed, from_leader, leads, mean
from diffcore.training import recovery as divergence
from diffcore.training.state import TrainState

logger = logging.getLogger(__name__)

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
    checkpoint. Where several processes train, all of them are told to `sample`, and the leader alone of the rest.
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
    numbers. Where the loss diverges (see `diffcore.training.recovery`), training goes back to the last good weights
    with a lower learning rate, or raises `UserError`, as `on_divergence` says; the checkpoints before that stay.
    """
    options = settings.train
    require_end(options)
    learner = TrainState(model, settings, data)
    progress, good = Progress(), checkpoint
    unlogged: list[Tensor] = []  # losses since the last line of metrics, of this process's part
    history: list[float] = []  # of lines of metrics, as `diffcore.training.recovery` remembers them

    def go_back(source: Path | None) -> None:
        nonlocal unlogged, history
        kept = learner.go_back(source)
        unlogged = list(kept.pop(_LOSSES, torch.empty(0)).flatten()[: options.log_every].to(model.device))
        history = kept.pop(_HISTORY, torch.empty(0)).flatten()[: divergence.WINDOW + 1].tolist()
        if kept:
            raise UserError(f"{source}: {TRAINING} holds {next(iter(kept))[:200]!r}, which training does not know")

    if checkpoint is not None:
        progress = read_progress(checkpoint)
        go_back(checkpoint)
        learner.forget_beginning()
    if leads():
        trim_log(run, progress.step, progress.steps_back)
        discard_after(run, progress.step)

    def losses() -> list[float]:
        """The losses since the last line of metrics, of all processes."""
        return mean(torch.stack(unlogged).double()).tolist() if unlogged else []

    def save(at: Progress) -> None:
        nonlocal good
        latest = losses()
        divergence.require_sound(latest, at.step, history, options.explosion)
        files = learner.files()
        files[TRAINING] |= {
            _LOSSES: torch.tensor(latest, dtype=torch.float32),
            _HISTORY: torch.tensor(history, dtype=torch.float64),
        }
        if unsound := from_leader(lambda: divergence.unsound(files)):
            raise divergence.DivergedError(at.step, unsound)

        def write() -> Path:
            sync_log(run)
            path = write_checkpoint(run, at, files, options.keep_checkpoints, options.keep_every)
            watcher.saved(at.step, path)
            return path

        good = from_leader(write)
        learner.forget_beginning()

    def step_back(diverged: divergence.DivergedError) -> None:
        """Find out where it began; then go back to the last good weights, or raise `UserError`."""
        nonlocal progress, good
        if not learner.remembers_beginning:
            good, _ = newest_sound(run, verify)
        start = 0 if good is None else step_of(good)
        said = f"{diverged} at step {diverged.step}"
        logger.warning(f"{said}: doing the steps from {start + 1} on again to see where it began")
        go_back(good)
        where = divergence.retrace(
            start,
            diverged.step,
            lambda step, examine: learner.advance(step, learning_rate(options, step, progress.steps_back), examine),
            learner.unsound_gradient,
            learner.losses_by_field,
        )
        kept = f"the last good weights are those of step {start}" + (f", in {good}" if good else ", the initial ones")
        back = progress.steps_back + 1
        rate = options.learning_rate * options.step_back_rate**back
        if options.on_divergence == "stop" or back > options.most_steps_back:
            advice = "lower `train.learning_rate`" if options.on_divergence == "stop" else (
                f"training has stepped back {back - 1} times; lower `train.learning_rate`"
            )  # fmt: skip
            raise UserError(f"{said}; {where}; {kept}; {advice} (it is {options.learning_rate:g})")
        go_back(good)
        progress = Progress(start, progress.seconds, back)
        logger.warning(f"{said}; {where}; stepping back to step {start}, the learning rate is now {rate:g}")
        if leads():
            discard_after(run, start)
            trim_log(run, start, back - 1)
            row = {"step": start, "steps_back": back, "from": diverged.step, "learning_rate": rate, "where": where}
            append_log(run, [row])
            if good is not None:
                rewrite_progress(good, progress)

    first, before, started = progress.step, progress.seconds, time.perf_counter()

    def aside(work: Callable[..., None], *arguments: Any) -> None:
        """Do something that is not training time."""
        nonlocal started
        paused = time.perf_counter()
        work(*arguments)
        started += time.perf_counter() - paused

    def log() -> None:
        nonlocal history
        latest = losses()
        divergence.require_sound(latest, progress.step, history, options.explosion)
        unlogged.clear()
        loss = math.fsum(latest) / len(latest)
        history = divergence.remembered(history, loss)
        if leads():
            rate = (progress.step - first) * options.batch_size / (progress.seconds - before)
            watcher.pulse(Pulse(progress.step, share_done(options, progress), progress.seconds, loss, rate))
            row = _row(options, progress, loss, rate)
            append_log(run, [row])
            aside(watcher.logged, row)

    def over(stop: bool) -> bool:
        """Whether training ends here, as all processes see it, by the leader's clock."""
        nonlocal progress
        seconds, stop = agreed(progress.seconds, stop)
        progress = replace(progress, seconds=seconds)
        return stop or share_done(options, progress) >= 1

    saved = progress.step if checkpoint is not None else -1
    model.network.train()
    with _stop_requests() as stop_requested:
        while True:
            try:
                while not over(stop_requested()):
                    rate = learning_rate(options, progress.step, progress.steps_back)
                    unlogged.append(learner.advance(progress.step, rate))
                    seconds = before + time.perf_counter() - started
                    progress = replace(progress, step=progress.step + 1, seconds=seconds)
                    if progress.step % options.log_every == 0:
                        log()
                    if progress.step % options.checkpoint_every == 0:
                        aside(save, progress)
                        saved = progress.step
                    if progress.step % options.sample_every == 0:
                        aside(lambda step: watcher.sample(learner.averaged(), step), progress.step)
                if saved != progress.step:
                    save(progress)
                break
            except divergence.DivergedError as diverged:
                step_back(diverged)
                saved, first, before, started = progress.step, progress.step, progress.seconds, time.perf_counter()
    averaged = learner.averaged()
    averaged.network.eval()
    return Outcome(progress, share_done(options, progress) < 1, averaged)


def learning_rate(options: TrainSettings, step: int, steps_back: int = 0) -> float:
    """Linear warm-up, then constant, then falling with 1 / sqrt(step). Karras et al. 2024, eq. 67.

    Each step back from a loss that diverged multiplies it by `step_back_rate`.

    It does not depend on where training ends, so a longer run goes on exactly where a shorter one stopped; the
    moving average of the weights does what a decay to zero would do.
    """
    warm = min(1.0, (step + 1) / max(options.warmup_steps, 1))
    rate = options.learning_rate * options.step_back_rate**steps_back
    return rate * warm / math.sqrt(max(1.0, step / options.decay_after))


def require_end(options: TrainSettings) -> None:
    """Raise `UserError` where nothing says when training ends."""
    if options.steps is None and options.minutes is None:
        raise UserError("how long? give `train.steps` N or `train.minutes` M")


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
