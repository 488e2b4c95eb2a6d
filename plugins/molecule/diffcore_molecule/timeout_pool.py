"""Work that may hang, done in worker processes with a time limit on each item."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_SPAWN = get_context("spawn")  # a fork would copy the locks of torch's threads
AHEAD = 64
"""How many items for each worker may be done before the first of them is given back."""
START_SECONDS = 120.0
"""What a worker may take to start, imports included; it does not count against an item's limit."""


@dataclass(frozen=True)
class Timeout:
    """The item took longer than it may; its worker was killed."""

    seconds: float

    def __str__(self) -> str:
        return f"took longer than {self.seconds:g} s"


@dataclass(frozen=True)
class Failed:
    """The function raised, or its worker died."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def limited_map(
    function: Callable[[Item], Result], items: Iterable[Item], seconds: float, workers: int = 1
) -> Iterator[Result | Timeout | Failed]:
    """`function(item)` for each item, in the order of the items, each within `seconds` or a `Timeout`.

    The work is done in `workers` processes that are started anew (spawn): the function must be one of a module's, and
    items and results must pickle. A worker that hangs, even in C++, is killed and replaced; one that dies gives a
    `Failed`, as an exception does, with its message. Workers end when the iterator does, or is closed.
    Raises `RuntimeError` where workers cannot be started.
    """
    if seconds <= 0 or workers < 1:
        raise ValueError("limited_map needs a positive time and at least one worker")
    waiting = enumerate(items)
    pool: list[_Worker] = []
    done: dict[int, Result | Timeout | Failed] = {}
    given, exhausted = 0, False
    try:
        while True:
            while given in done:
                yield done.pop(given)
                given += 1
            idle = [worker for worker in pool if worker.index is None]
            while (idle or len(pool) < workers) and not exhausted and len(done) < AHEAD * workers:
                try:
                    index, item = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                if not idle:
                    idle.append(_Worker(function, seconds))
                    pool.append(idle[-1])
                idle.pop().give(index, item)
            busy = [worker for worker in pool if worker.index is not None]
            if not busy:
                return
            patience = min(worker.deadline for worker in busy) - time.monotonic()
            ready = wait([worker.pipe for worker in busy], max(patience, 0))
            for worker in busy:
                if worker.pipe in ready:
                    done.update(worker.take())
                elif time.monotonic() > worker.deadline:
                    done.update(worker.overdue())
            pool = [worker for worker in pool if worker.alive]
    finally:
        for worker in pool:
            worker.kill()


@contextmanager
def _no_script() -> Iterator[None]:
    """Let processes that start here not run the user's script, which spawned ones do as they start.

    The functions are modules' own, and few scripts guard their main part.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _Worker:
    """A process and what it is at."""

    def __init__(self, function: Callable[..., Any], seconds: float) -> None:
        self.seconds = seconds
        self.index: int | None = None
        self.item: Any = None
        self.started = False
        self.alive = True
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, function, seconds), daemon=True)
        with _no_script():
            self.process.start()
        theirs.close()
        self.deadline = time.monotonic() + START_SECONDS

    def give(self, index: int, item: Any) -> None:
        self.index, self.item = index, item
        if self.started:
            self._send()

    def _send(self) -> None:
        self.deadline = time.monotonic() + self.seconds
        with suppress(OSError):  # it has died, which `take` finds
            self.pipe.send(self.item)

    def take(self) -> dict[int, Any]:
        """What came from the worker: the outcome of its item, or nothing where it only says that it started."""
        assert self.index is not None
        try:
            said, outcome = self.pipe.recv()
        except (EOFError, OSError):
            self.kill()
            if not self.started:
                raise RuntimeError(f"a worker process died at its start (exit code {self.process.exitcode})") from None
            return {self.index: Failed(f"the process that worked on it died (exit code {self.process.exitcode})")}
        if said == "started":
            self.started = True
            self._send()
            return {}
        index, self.index, self.item = self.index, None, None
        return {index: outcome}

    def overdue(self) -> dict[int, Any]:
        """End a worker whose time is up."""
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
    """What a worker does: items in, outcomes out, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    pipe.send(("started", None))
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        if hasattr(signal, "alarm"):  # should the parent die first, a hung worker ends by itself
            signal.alarm(int(seconds) + 30)
        try:
            outcome: Any = function(item)
        except Exception as error:
            last = traceback.format_exception_only(error)[-1].strip()
            outcome = Failed(str(error).splitlines()[0] if str(error).strip() else last)
        try:
            pipe.send(("done", outcome))
        except OSError:
            return
        except Exception as error:
            pipe.send(("done", Failed(f"the result cannot be handed over: {error}")))


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
