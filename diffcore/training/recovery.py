"""What training does after it diverged: find where the divergence began, then step back, or stop."""

import logging
import math
from collections.abc import Callable, Mapping

from diffcore.errors import UserError
from diffcore.runs.checkpoints import Progress, discard_after, newest_undamaged, rewrite_progress, step_of, verify
from diffcore.runs.folder import append_log, trim_log
from diffcore.system.distributed import leads
from diffcore.training.checkpointing import restore
from diffcore.training.divergence import DivergedError
from diffcore.training.learning_rate import learning_rate
from diffcore.training.loop_state import LoopState
from diffcore.training.state import TrainState

logger = logging.getLogger(__name__)


def step_back(loop: LoopState, diverged: DivergedError) -> None:
    """Go back to the last good weights with a learning rate that is `train.step_back_rate` times as large.

    First the steps since then are repeated to find where the divergence began, which the messages and the log contain.

    Raises `UserError` if `train.on_divergence` is `stop`, or after `train.most_steps_back` steps back.
    """
    options, train_state = loop.options, loop.train_state
    if not train_state.has_initial_weights:
        loop.checkpoint, _ = newest_undamaged(loop.run, verify)
    good = loop.checkpoint
    start = 0 if good is None else step_of(good)
    seen = f"{diverged} at step {diverged.step}"
    logger.warning(f"{seen}; repeating the steps from {start + 1} on to find where it began")
    restore(loop, good)
    where = retrace(
        train_state, start, diverged.step, lambda step: learning_rate(options, step, loop.progress.steps_back)
    )
    back = loop.progress.steps_back + 1
    if options.on_divergence == "stop" or back > options.most_steps_back:
        weights = f"the last good weights are those of step {start}, " + (f"in {good}" if good else "the initial ones")
        advice = "lower `train.learning_rate`"
        if options.on_divergence == "step-back":
            advice = f"training has stepped back {back - 1} times; {advice}"
        raise UserError(f"{seen}; {where}; {weights}; {advice} (it is {options.learning_rate:g})")
    restore(loop, good)
    rate = options.learning_rate * options.step_back_rate**back
    progress = Progress(start, loop.progress.seconds, back)
    logger.warning(f"{seen}; {where}; stepping back to step {start}, the learning rate is now {rate:g}")
    if leads():
        discard_after(loop.run, start)
        trim_log(loop.run, start, back - 1)
        row = {"step": start, "steps_back": back, "from": diverged.step, "learning_rate": rate, "where": where}
        append_log(loop.run, [row])
        if good is not None:
            rewrite_progress(good, progress)
    loop.continue_from(progress)


class _FoundError(Exception):
    """Where the divergence began, as a clause of a message."""


def retrace(train_state: TrainState, start: int, end: int, rate: Callable[[int], float]) -> str:
    """Repeat the steps since the last good weights to find where the divergence began; return it as a clause.

    `train_state` has the weights after `start` steps, `end` is the step in which training diverged, counted from 1, and
    `rate(step)` is the learning rate of a step, counted from 0. The clause names the first parameter whose gradient is
    not finite; otherwise the field of the state, or the condition, whose loss in step `end` is not finite or is the
    largest.
    """

    def examine(step: int, loss: float) -> None:
        """Raise `_FoundError` if the loss or a gradient of the step is not finite."""
        if not math.isfinite(loss):
            raise _FoundError(_worst_field(step + 1, train_state.losses_by_field(step)))
        if name := train_state.non_finite_gradient():
            raise _FoundError(f"it began in step {step + 1}, where the gradient of {name} is no longer finite")

    try:
        for step in range(start, end - 1):
            train_state.advance(step, rate(step), lambda loss, step=step: examine(step, loss))  # type: ignore[misc]
        losses = train_state.losses_by_field(end - 1)
        if all(map(math.isfinite, losses.values())):
            train_state.advance(end - 1, rate(end - 1), lambda loss: examine(end - 1, loss))
        if len(losses) > 1 or not all(map(math.isfinite, losses.values())):
            raise _FoundError(_worst_field(end, losses))
    except _FoundError as found:
        return str(found)
    return f"repeating steps {start + 1} to {end} did not show where it began"


def _worst_field(step: int, losses: Mapping[str, float]) -> str:
    """The fields whose losses are not finite, or the one with the largest loss, as a clause."""
    bad = [name for name, loss in losses.items() if not math.isfinite(loss)]
    if bad == [""]:
        return f"the output of the network is no longer finite in step {step}"
    if bad:
        names = ", ".join(map(repr, bad))
        return f"it is {losses[bad[0]]} in the {'field' if len(bad) == 1 else 'fields'} {names} in step {step}"
    total = math.fsum(map(abs, losses.values())) or 1.0
    name = max(losses, key=lambda name: abs(losses[name]))
    return f"{abs(losses[name]) / total:.0%} of it is in the field {name!r} in step {step}"
