"""Detecting that training diverged.

Training checks its losses at each line of the log and before each checkpoint, when it waits for the device anyway, so
the check costs nothing. Two things count as diverged:

* a loss, or a weight that a checkpoint would hold, is not finite;
* the mean loss since the last line is above `explosion` times the median m of the last `WINDOW` lines,
  loss - m > (explosion - 1) |m|, and above the loss of the first line, so that the network is worse than it was
  untrained. This is not checked at the first `FIRST_LINES` lines, nor if `explosion` is 0.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

WINDOW = 20
"""The number of lines of the log that a loss is compared with."""

FIRST_LINES = 5
"""The number of lines of the log before any finite loss can count as diverged."""


class DivergedError(Exception):
    """Training diverged in step `step` (counted from 1); the message is the reason."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step = step


def extended(history: Sequence[float], loss: float) -> list[float]:
    """Return `history` with the loss of one more line: the loss of the first line, and of the last `WINDOW` lines."""
    return [*history, loss] if len(history) <= WINDOW else [history[0], *history[2:], loss]


def check_losses(losses: Sequence[float], last: int, history: Sequence[float], explosion: float) -> None:
    """Raise `DivergedError` if the losses of the steps up to `last` are not finite, or exploded compared to `history`.

    The error names the first step whose loss is not finite, or the step with the largest loss.
    """
    first = last - len(losses) + 1
    for step, loss in enumerate(losses, first):
        if not math.isfinite(loss):
            raise DivergedError(step, f"the loss is {loss}")
    if not explosion or len(history) < FIRST_LINES or not losses:
        return
    mean = math.fsum(losses) / len(losses)
    median = statistics.median(history[-WINDOW:])
    if mean > max(history[0], median + (explosion - 1) * abs(median)):
        step = first + max(range(len(losses)), key=losses.__getitem__)
        raise DivergedError(step, f"the loss exploded from {median:.4g} to {mean:.4g}")


def non_finite(files: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """Return a sentence that names the first tensor of a checkpoint that is not finite, or None if all are finite."""
    tensors = {
        f"{name} of {file}": tensor
        for file, content in files.items()
        for name, tensor in content.items()
        if tensor.is_floating_point() or tensor.is_complex()
    }
    if all_finite(tensors.values()):
        return None
    name = next(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    return f"{name} is no longer finite"


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all tensors are finite. It waits once for each device."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor.isfinite().all())
    return all(bool(torch.stack(found).all()) for found in by_device.values())
