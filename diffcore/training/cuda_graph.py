"""A step of training as a CUDA graph: the GPU repeats what it did, and Python does not start each operation again.

The networks of the presets for laptops need a few milliseconds of a GPU for a step, and Python needs several times as
long to start its operations, one after the other. A graph is recorded once and then started as a whole.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from diffcore.errors import first_line
from diffcore.tasks.batch import Examples
from diffcore.tasks.random_state import seed_generators

WARM_UP = 3
"""Steps before recording, in which libraries choose their algorithms and the optimiser creates its state."""

logger = logging.getLogger(__name__)


class CudaGraph:
    """`work(batch)`, recorded at the first call after the warm-up and repeated from then on.

    `work` receives batches of the same shapes, returns a tensor, and may change tensors in place, but must not allocate
    state that outlives it, wait for the GPU, or do anything else on the CPU that differs from step to step. If it
    cannot be recorded, a warning says why and it is called as it is.
    """

    def __init__(self, work: Callable[[Examples], Tensor], device: torch.device) -> None:
        self._work, self._device = work, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output: Tensor | None = None
        self._steps = 0

    def __call__(self, batch: Examples) -> Tensor:
        """Do the work for `batch`, and return its result."""
        if self._steps < WARM_UP:
            self._steps += 1
            return self._aside(batch)
        if self._steps == WARM_UP:
            self._steps += 1
            self._record(batch)
        if self._graph is None:
            return self._work(batch)
        torch._foreach_copy_(self._inputs, _tensors(batch))
        seed_generators(self._device, batch.dropout_seed)
        self._graph.replay()
        assert self._output is not None
        return self._output.clone()

    def _aside(self, batch: Examples) -> Tensor:
        """Work in a stream of its own, as recording will."""
        stream, current = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            result = self._work(batch)
        current.wait_stream(stream)
        return result

    def _record(self, batch: Examples) -> None:
        own = batch.map(torch.clone)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._output = self._work(own)
        except RuntimeError as error:
            logger.warning(
                "a training step of this network cannot be recorded as a CUDA graph (%s); training goes on without",
                first_line(error),
            )
            return
        self._graph, self._inputs = graph, _tensors(own)


def _tensors(batch: Examples) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    batch.map(keep)
    return found
