"""Requests to stop: Ctrl-C, SIGTERM, and SIGHUP, which a process receives when its terminal is closed."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *((_HANG_UP,) if _HANG_UP is not None else ()))


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT (Ctrl-C), SIGTERM or SIGHUP into a request; yield a function that returns whether it came.

    A SIGHUP that is ignored, as under nohup, stays ignored. A second signal raises `KeyboardInterrupt` at once. When
    the context ends, the earlier signal handlers are restored. Outside the main thread, where Python allows no signal
    handlers, signals are left alone.
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
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if handler is None:  # a handler of C code, which could not be restored
                    continue
                if number == _HANG_UP and handler == signal.SIG_IGN:
                    continue
                earlier[number] = signal.signal(number, request)
        yield lambda: requested
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
