"""A map over items in worker processes with a time limit for each item, for functions that may hang."""

import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_SPAWN = get_context("spawn")  # a fork would copy locks that threads of torch hold
BUFFERED = 64
"""How many finished results per worker may wait for the result of an earlier item."""
START_SECONDS = 120.0
"""The time limit for the start of a worker, including its imports. It does not count against an item's limit."""
MEMORY = 4 * 2**30
"""Bytes of data that a worker may allocate, so that no molecule can take all memory of the machine."""


@dataclass(frozen=True)
class Timeout:
    """The result of an item that exceeded the time limit; its worker was killed."""

    seconds: float

    def __str__(self) -> str:
        return f"took longer than {self.seconds:g} s"


@dataclass(frozen=True)
class Failed:
    """The result of an item for which the function raised an exception, or whose worker died.

    For a `ValueError` and a `RuntimeError` the reason is the first line of the message. Other exceptions are faults of
    a program rather than of the item, so the reason names their type.
    """

    reason: str

    def __str__(self) -> str:
        return self.reason


def timeout_map(
    function: Callable[[Item], Result], items: Iterable[Item], seconds: float, workers: int = 1
) -> Iterator[Result | Timeout | Failed]:
    """`function(item)` for each item, in the order of the items; a `Timeout` if an item takes longer than `seconds`.

    The function runs in `workers` spawned processes: it must be defined at the top level of a module, and items and
    results must be picklable. A worker that hangs, even in C++, is killed and replaced, and none can allocate more than
    `MEMORY`. An exception in the function, or the death of a worker, yields a `Failed` with the reason. The workers end
    with the iterator, or when it is closed. Raises `RuntimeError` if a worker cannot be started.
    """
    if seconds <= 0 or workers < 1:
        raise ValueError("timeout_map needs a positive time and at least one worker")
    remaining = enumerate(items)
    pool: list[_Worker] = []
    done: dict[int, Result | Timeout | Failed] = {}
    following, exhausted = 0, False  # the index of the result that is yielded next
    try:
        while True:
            while following in done:
                yield done.pop(following)
                following += 1
            idle = [worker for worker in pool if worker.index is None]
            while (idle or len(pool) < workers) and not exhausted and len(done) < BUFFERED * workers:
                try:
                    index, item = next(remaining)
                except StopIteration:
                    exhausted = True
                    break
                if not idle:
                    idle.append(_Worker(function, seconds))
                    pool.append(idle[-1])
                idle.pop().submit(index, item)
            busy = [worker for worker in pool if worker.index is not None]
            if not busy:
                return
            time_left = min(worker.deadline for worker in busy) - time.monotonic()
            ready = wait([worker.pipe for worker in busy], max(time_left, 0))
            for worker in busy:
                if worker.pipe in ready:
                    done.update(worker.receive())
                elif time.monotonic() > worker.deadline:
                    done.update(worker.expire())
            pool = [worker for worker in pool if worker.alive]
    finally:
        for worker in pool:
            worker.kill()


def map_each(
    function: Callable[[list[Item]], list[Result]], portions: Iterable[list[Item]], seconds: float, workers: int = 1
) -> Iterator[tuple[Item, Result | Timeout | Failed]]:
    """Each item of the portions, and its result; `function` takes a portion and returns a result for each of its items.

    A portion takes one way to a worker and back, which costs more than many small items. If it fails as a whole, its
    items are tried one by one, each with the same time limit, so only those that fail alone have no result.
    """
    pending: deque[list[Item]] = deque()

    def noted() -> Iterator[list[Item]]:
        for portion in portions:
            pending.append(portion)
            yield portion

    for result in timeout_map(function, noted(), seconds, workers):
        portion = pending.popleft()
        if not isinstance(result, Timeout | Failed):
            yield from zip(portion, result, strict=True)
        elif len(portion) == 1:
            yield portion[0], result
        else:
            alone = timeout_map(function, ([item] for item in portion), seconds, 1)
            for item, one in zip(portion, alone, strict=True):
                yield item, one if isinstance(one, Timeout | Failed) else one[0]


@contextmanager
def _hidden_main_script() -> Iterator[None]:
    """Within this context, spawned processes do not run the user's script again when they start.

    They do not need it, because the functions are defined in modules, and few scripts guard their main part.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _Worker:
    """A worker process and the item that it works on."""

    def __init__(self, function: Callable[..., Any], seconds: float) -> None:
        self.seconds = seconds
        self.index: int | None = None
        self.item: Any = None
        self.started = False
        self.alive = True
        self.pipe, child_end = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(child_end, function, seconds), daemon=True)
        with _hidden_main_script():
            self.process.start()
        child_end.close()
        self.deadline = time.monotonic() + START_SECONDS

    def submit(self, index: int, item: Any) -> None:
        self.index, self.item = index, item
        if self.started:
            self._send()

    def _send(self) -> None:
        self.deadline = time.monotonic() + self.seconds
        with suppress(OSError):  # the worker has died, which `receive` finds out
            self.pipe.send(self.item)

    def receive(self) -> dict[int, Any]:
        """The result of the item by its index, or an empty dict if the worker only reports that it has started."""
        assert self.index is not None
        try:
            event, result = self.pipe.recv()
        except (EOFError, OSError):
            self.kill()
            if not self.started:
                raise RuntimeError(f"a worker process died at its start (exit code {self.process.exitcode})") from None
            return {self.index: Failed(f"its worker process died (exit code {self.process.exitcode})")}
        if event == "started":
            self.started = True
            self._send()
            return {}
        index, self.index, self.item = self.index, None, None
        return {index: result}

    def expire(self) -> dict[int, Any]:
        """Kill the worker, whose item has exceeded the time limit, and return a `Timeout`."""
        assert self.index is not None
        self.kill()
        if not self.started:
            raise RuntimeError(f"a worker process did not start within {START_SECONDS:g} s")
        return {self.index: Timeout(self.seconds)}

    def kill(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, function: Callable[..., Any], seconds: float) -> None:
    """The loop of a worker: receive items and send results until the parent closes its end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent kills its workers
    _limit_memory()
    pipe.send(("started", None))
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        if hasattr(signal, "alarm"):  # if the parent dies first, a worker that hangs ends by itself
            signal.alarm(int(seconds) + 30)
        try:
            result: Any = function(item)
        except Exception as error:
            result = Failed(reason_of(error))
        try:
            pipe.send(("done", result))
        except OSError:
            return
        except Exception as error:
            pipe.send(("done", Failed(f"the result cannot be pickled: {error}")))


def _limit_memory() -> None:
    """Let allocations fail beyond `MEMORY`, on systems that can limit them."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        limit = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def reason_of(error: Exception) -> str:
    """Why an item failed, in one line."""
    if isinstance(error, MemoryError):
        return f"needs more than {MEMORY // 2**30} GiB of memory"
    if isinstance(error, ValueError | RuntimeError) and str(error).strip():
        return str(error).strip().splitlines()[0]
    return f"an unexpected error, {traceback.format_exception_only(error)[-1].strip().splitlines()[0]}"


def processors() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
