"""The training loop.

Everything random in step k is drawn from generators seeded with (seed, k), and the order of the data from
(seed, epoch). A run that was stopped and resumed therefore gives the same result as an uninterrupted one: on the CPU,
bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from diffcore.plugins.data import Data
from diffcore.plugins.text import keep_texts
from diffcore.runs.checkpoints import Progress, discard_after
from diffcore.runs.coding import prepared_data
from diffcore.runs.folder import RunFolder, trim_log
from diffcore.runs.model import Model
from diffcore.runs.settings import RunSettings
from diffcore.system.distributed import agreed, in_turn, leads
from diffcore.tasks.buckets import with_sizes
from diffcore.tasks.random_state import keep_random_state
from diffcore.training import log
from diffcore.training.callbacks import Callbacks, LogLine
from diffcore.training.checkpointing import resume, save
from diffcore.training.divergence import DivergedError
from diffcore.training.duration import require_end, share_done
from diffcore.training.learning_rate import learning_rate
from diffcore.training.loop_state import LoopState
from diffcore.training.recovery import step_back
from diffcore.training.signals import stop_requests
from diffcore.training.state import TrainState

__all__ = ["Callbacks", "LogLine", "Outcome", "learning_rate", "require_end", "share_done", "train"]


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    progress: Progress
    interrupted: bool
    """Whether training was asked to stop before its end."""
    model: Model
    """The model with averaged weights."""
    missing: tuple[str, ...] = ()
    """What could not be made after training: "picture", "metrics" or "report"."""
    stop_requested: bool = False
    """Whether training was asked to stop, be it when it was complete."""


def train(
    run: RunFolder,
    settings: RunSettings,
    model: Model,
    data: Data,
    callbacks: Callbacks,
    checkpoint: Path | None = None,
) -> Outcome:
    """Train `model` on `data` until `train.steps` or `train.minutes` is reached, or a signal asks to stop.

    These signals are SIGINT (Ctrl-C), SIGTERM and SIGHUP.

    With `checkpoint`, training continues from there. It always ends with a checkpoint, and all weights in checkpoints
    are finite. If the loss diverges (see `diffcore.training.divergence`) and `train.on_divergence` is `step-back`,
    training continues from the last good weights with a lower learning rate.

    The global random state of the CPU and of the model's device is restored at the end, and so are the signal handlers.
    Outside the main thread signals are left alone, and training cannot be asked to stop.

    Raises `UserError` if the settings have no end, if the checkpoint does not fit, or if the loss diverges and
    `train.on_divergence` is `stop`, or after `train.most_steps_back` steps back. Earlier checkpoints stay.
    """
    options = settings.train
    require_end(options)
    ready = replace(data, examples=in_turn(lambda: prepared_data(model, data)))
    if options.buckets:
        ready = with_sizes(model, ready)
    keep_texts(model.network, data)
    with keep_random_state(model.device):
        loop = LoopState(run, options, callbacks, TrainState(model, settings, ready))
        if checkpoint is not None:
            resume(loop, checkpoint)
        if leads():  # later lines and checkpoints are of steps that are repeated now
            trim_log(run, loop.progress.step, loop.progress.steps_back)
            discard_after(run, loop.progress.step)
        model.network.train()
        if checkpoint is not None and not callbacks.sampled(loop.progress.step):
            _sample(loop)
        with _reading(loop), stop_requests() as stop_requested:
            while True:
                try:
                    if _is_over(loop, stop_requested()):
                        if share_done(options, loop.progress) >= 1:
                            log.write_last_line(loop)
                        if loop.saved_step != loop.progress.step:
                            save(loop)
                        break
                    step = _do_step(loop)
                    if step % options.log_every == 0:
                        log.write_line(loop)
                    if step % options.checkpoint_every == 0:
                        save(loop)
                    _sample(loop)
                except DivergedError as diverged:
                    step_back(loop, diverged)
            _, stopped = agreed(loop.progress.seconds, stop_requested())
        averaged = loop.train_state.averaged()
    averaged.network.eval()
    return Outcome(loop.progress, share_done(options, loop.progress) < 1, averaged, stop_requested=stopped)


@contextmanager
def _reading(loop: LoopState) -> Iterator[None]:
    """End what reads examples ahead of the steps when the context ends, and log how fast it was."""
    try:
        yield
    finally:
        done, since = loop.progress, loop.since
        loop.train_state.end_reading(done.step - since.step, done.seconds - since.seconds)


def _is_over(loop: LoopState, stop: bool) -> bool:
    """Return whether training ends before the next step. All processes use the leader's clock, so they agree."""
    seconds, stop = agreed(loop.progress.seconds, stop)
    loop.progress = replace(loop.progress, seconds=seconds)
    return stop or share_done(loop.options, loop.progress) >= 1


def _sample(loop: LoopState) -> None:
    """Call `callbacks.sample` if that is due at the current step."""
    if loop.progress.step % loop.options.sample_every == 0:
        with loop.clock.stopped():
            loop.callbacks.sample(loop.train_state.averaged(), loop.progress.step)
            loop.train_state.put_away()


def _do_step(loop: LoopState) -> int:
    """Do the next step and return its number, counted from 1."""
    done = loop.progress
    rate = learning_rate(loop.options, done.step, done.steps_back)
    loop.losses.append(loop.train_state.advance(done.step, rate))
    loop.progress = replace(done, step=done.step + 1, seconds=loop.since.seconds + loop.clock.seconds)
    return loop.progress.step
