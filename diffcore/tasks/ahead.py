"""Reading the examples of the next steps while a step is done, for data that are mapped from files.

The examples of a step follow from the seed and the step alone, so it is known long before which ones are read. A thread
reads them from the file, each process those of its own share, and a step finds them in memory. What is read is what the
step would read itself, so nothing depends on whether the thread is ahead.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from diffcore.states.state import fields
from diffcore.system.mapped import expect_random_reads, expect_rows, is_mapped

if TYPE_CHECKING:
    from tensordict import TensorDict

BATCHES = 4
"""How many batches are read ahead, at most."""


class Ahead:
    """Reads batches of `examples` ahead of the steps that use them.

    * `numbers(step)`: the numbers of the examples that this process reads for a step, int64 `[B]`.
    * `pinned`: whether batches are read into pinned memory, from which GPUs copy without waiting.
    """

    def __init__(self, examples: "TensorDict", numbers: Callable[[int], Tensor], pinned: bool = False) -> None:
        self._examples, self._numbers, self._pinned = examples, numbers, pinned
        self._thread = ThreadPoolExecutor(1, "reading ahead")
        self._coming: dict[int, Future[tuple[Tensor, TensorDict]]] = {}
        self._lock = threading.Lock()
        self.batches, self.seconds, self.waited = 0, 0.0, 0.0
        """The batches that were read, the seconds that the thread took for that, and those that steps waited for it."""
        for value in fields(examples).values():
            expect_random_reads(value)

    def rows(self, step: int, chosen: Tensor) -> "TensorDict":
        """The examples with the numbers `chosen`, those of step `step`. The next batches are read from now on."""
        started = time.perf_counter()
        coming = self._coming.pop(step, None)
        ahead = None if coming is None else coming.result()
        rows = ahead[1] if ahead is not None and torch.equal(ahead[0], chosen) else self._read(chosen)
        self.waited += time.perf_counter() - started
        wanted = range(step + 1, step + 1 + BATCHES)
        for other in [*self._coming]:
            if other not in wanted:
                self._coming.pop(other).cancel()
        for other in wanted:
            if other not in self._coming:
                self._coming[other] = self._thread.submit(self._of_step, other)
        return rows

    def _of_step(self, step: int) -> "tuple[Tensor, TensorDict]":
        numbers = self._numbers(step)
        return numbers, self._read(numbers)

    def _read(self, numbers: Tensor) -> "TensorDict":
        started = time.perf_counter()
        for value in fields(self._examples).values():
            expect_rows(value, numbers)
        rows = self._examples.apply(lambda value: _taken(value, numbers), batch_size=[len(numbers)])
        rows = rows.pin_memory() if self._pinned else rows
        with self._lock:
            self.batches, self.seconds = self.batches + 1, self.seconds + time.perf_counter() - started
        return rows

    def told(self, steps: int, seconds: float) -> str:
        """Both rates in words, after so many steps in so many seconds."""
        own, both = self.batches / max(self.seconds, 1e-9), steps / max(seconds, 1e-9)
        share = 100 * self.waited / max(seconds, 1e-9)
        return (
            f"batches are read ahead at {own:,.0f}/s alone, and training did {both:,.3g} steps/s; it waited for them "
            f"during {share:.2g} % of the time"
        )

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _taken(value: Tensor, numbers: Tensor) -> Tensor:
    """Rows of a tensor. Those that are mapped are copied by numpy, which uses no threads of its own for it."""
    if is_mapped(value) and value.dtype != torch.bfloat16:
        if value.is_contiguous():
            return torch.from_numpy(numpy.take(value.numpy(), numbers.numpy(), axis=0))
        return torch.from_numpy(value.numpy()[numbers.numpy()])  # `take` would copy all rows first
    return value[numbers]
