"""Lines of train_log.jsonl, and the reports that go with them."""

import math
from collections.abc import Mapping

from diffcore.runs.folder import append_log
from diffcore.system.distributed import leads
from diffcore.training.callbacks import LogLine
from diffcore.training.divergence import check_losses, extended
from diffcore.training.duration import seconds_left, share_done
from diffcore.training.learning_rate import learning_rate
from diffcore.training.loop_state import LoopState


def write_last_line(loop: LoopState) -> None:
    """Write a line of a run that ended before its first line; it has the key `partial`, and is dropped on resuming."""
    if loop.losses and not loop.history:
        losses = loop.recent_losses()
        check_losses(losses, loop.progress.step, loop.history, loop.options.explosion)
        if leads():
            _write(loop, math.fsum(losses) / len(losses), {"partial": 1})


def write_line(loop: LoopState) -> None:
    """Report the steps since the last line: call `callbacks.log`, write a line, call `callbacks.logged`.

    Raises `DivergedError` if the losses diverged.
    """
    options, progress = loop.options, loop.progress
    losses = loop.recent_losses()
    check_losses(losses, progress.step, loop.history, options.explosion)
    loss = math.fsum(losses) / len(losses)
    loop.losses.clear()
    loop.history = extended(loop.history, loss)
    if leads():
        _write(loop, loss, {})


def _write(loop: LoopState, loss: float, more: Mapping[str, float]) -> None:
    options, callbacks, progress, since = loop.options, loop.callbacks, loop.progress, loop.since
    rate = (progress.step - since.step) * options.batch_size / (progress.seconds - since.seconds)
    done, left = share_done(options, progress), seconds_left(options, progress, since)
    callbacks.log(LogLine(progress.step, done, progress.seconds, loss, rate, left))
    row = {
        "step": progress.step,
        "seconds": round(progress.seconds, 2),
        "loss": loss,
        "learning_rate": learning_rate(options, progress.step - 1, progress.steps_back),
        "examples_per_second": round(rate, 1),
        **more,
    }
    append_log(loop.run, [row])
    with loop.clock.stopped():
        callbacks.logged(row)
