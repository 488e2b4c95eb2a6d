"""Requests to stop: Ctrl-C and SIGTERM."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT (Ctrl-C) or SIGTERM into a request, and yield a function that returns whether there is one.

    A second signal raises `KeyboardInterrupt` at once. When the context ends, the earlier signal handlers are restored.
    Outside the main thread, where Python allows no signal handlers, signals are left alone.
    """
    requested = False

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    earlier = {}
    try:
        with suppress(ValueError):  # not the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not None:  # a handler of C code, which could not be restored
                    earlier[number] = signal.signal(number, request)
        yield lambda: requested
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
