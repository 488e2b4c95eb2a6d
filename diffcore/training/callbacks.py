"""What the training loop calls: functions of the caller, and the line that it reports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffcore.runs.model import Model


@dataclass(frozen=True)
class LogLine:
    """What the training loop reports every `train.log_every` steps."""

    step: int
    done: float
    """The share of the whole run that is trained, from 0 to 1."""
    seconds: float
    """Seconds of training of the whole run, without the time for checkpoints and pictures."""
    loss: float
    """The mean loss of the steps since the last line, in the unit of the task (`Task.loss_label`)."""
    examples_per_second: float
    seconds_left: float
    """Estimated seconds of training until the end (`diffcore.training.duration.seconds_left`).

    It is based on the steps since training began, or was resumed or stepped back, and not on the whole run, which may
    have begun on a faster or slower machine.
    """


@dataclass(frozen=True)
class Callbacks:
    """Functions that the training loop calls.

    If several processes train, `sample` and `sampled` are called in all of them, and the others in the leader alone.
    """

    log: Callable[[LogLine], None] = lambda line: None
    """Called every `train.log_every` steps, before the line is written to train_log.jsonl."""
    sample: Callable[[Model, int], None] = lambda model, step: None
    """Called every `train.sample_every` steps with the model with averaged weights and the step."""
    logged: Callable[[Mapping[str, float]], None] = lambda row: None
    """Called with each line of train_log.jsonl after it was written."""
    saved: Callable[[int, Path], None] = lambda step, path: None
    """Called after each checkpoint with its step and folder."""
    sampled: Callable[[int], bool] = lambda step: True
    """Whether `sample` was completed for a step. Asked when training continues from the checkpoint of such a step."""
