"""When a loss is no longer one: what is noticed, what is said of it, and where it began.

Training looks at the loss with each line of metrics and before each checkpoint, when it waits for the device anyway,
so noticing costs nothing. Two things count as diverged:

* a loss, or a weight that a checkpoint would hold, that is no number;
* a mean loss since the last line that is above `explosion` times the median m of the last `WINDOW` lines,
  loss - m > (explosion - 1) |m|, and above the first line's: the network is worse than it was untrained. The first
  `LEAST` lines are not judged so, and none where `explosion` is 0.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

WINDOW = 20
"""Lines of metrics that a loss is compared with."""

LEAST = 5
"""Lines of metrics before which no finite loss counts as diverged."""


class DivergedError(Exception):
    """Training diverged in step `step` (counted from 1): what was seen."""

    def __init__(self, step: int, seen: str) -> None:
        super().__init__(seen)
        self.step = step


def remembered(history: Sequence[float], loss: float) -> list[float]:
    """`history` with the loss of one more line: the first line's, and those of the last `WINDOW` lines."""
    return [*history, loss] if len(history) <= WINDOW else [history[0], *history[2:], loss]


def require_sound(losses: Sequence[float], last: int, history: Sequence[float], explosion: float) -> None:
    """Raise `DivergedError` where the losses of the steps up to `last` are no numbers, or exploded beside `history`.

    The step that it names is the first whose loss is no number, or the one with the largest.
    """
    first = last - len(losses) + 1
    for step, loss in enumerate(losses, first):
        if not math.isfinite(loss):
            raise DivergedError(step, f"the loss is {loss}")
    if not explosion or len(history) < LEAST or not losses:
        return
    mean = math.fsum(losses) / len(losses)
    median = statistics.median(history[-WINDOW:])
    if mean > max(history[0], median + (explosion - 1) * abs(median)):
        step = first + max(range(len(losses)), key=losses.__getitem__)
        raise DivergedError(step, f"the loss exploded to {mean:.4g}, where it was {median:.4g} before,")


def unsound(files: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """Which tensor of a checkpoint holds something that is no number, in words."""
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
    """Whether all numbers of all tensors are finite; waits for the device once for each device."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor.isfinite().all())
    return all(bool(torch.stack(found).all()) for found in by_device.values())


Advance = Callable[[int, Callable[[float], None]], object]
"""`advance(step, examine)`: do the step with that number (from 0); `examine(loss)` is called once it has gradients."""


class _FoundError(Exception):
    """Where it began, in words."""


def retrace(
    start: int,
    end: int,
    advance: Advance,
    unsound_gradient: Callable[[], str | None],
    field_losses: Callable[[int], Mapping[str, float]],
) -> str:
    """Do the steps from number `start` (from 0) on again, up to the one that is told as `end` (from 1), and look.

    The network is as it was at `start`. What is told, in words: the first parameter whose gradient is no number in an
    earlier step, else the field of the state (or the condition) whose loss in step `end` is no number, or the largest.
    """

    def examine(step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise _FoundError(_of_fields(step + 1, field_losses(step)))
        if name := unsound_gradient():
            raise _FoundError(f"it began in step {step + 1}, where the gradient of {name} is no longer finite")

    try:
        for step in range(start, end - 1):
            advance(step, lambda loss, step=step: examine(step, loss))  # type: ignore[misc]
        losses = field_losses(end - 1)
        if all(map(math.isfinite, losses.values())):
            advance(end - 1, lambda loss: examine(end - 1, loss))
        if len(losses) > 1 or not all(map(math.isfinite, losses.values())):
            raise _FoundError(_of_fields(end, losses))
    except _FoundError as found:
        return str(found)
    return f"doing steps {start + 1} to {end} again showed nothing"


def _of_fields(step: int, losses: Mapping[str, float]) -> str:
    """The worst of the fields in words."""
    bad = [name for name, loss in losses.items() if not math.isfinite(loss)]
    if bad == [""]:
        return f"the network's output is no longer finite in step {step}"
    if bad:
        names = ", ".join(map(repr, bad))
        return f"it is {losses[bad[0]]} in the {'field' if len(bad) == 1 else 'fields'} {names} in step {step}"
    total = math.fsum(map(abs, losses.values())) or 1.0
    name = max(losses, key=lambda name: abs(losses[name]))
    return f"{abs(losses[name]) / total:.0%} of it are of the field {name!r} in step {step}"
