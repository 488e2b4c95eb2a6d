"""Heartbeats: which of several processes has stopped answering.

A process that is frozen, on a machine that is suspended or that has lost its network, does not end, so torchrun does
not end the others, and they would wait for it without a word. Each process therefore counts up a number in the store
that torchrun provides, in a thread of its own, and watches the numbers of the others.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

INTERVAL = 10.0
"""Seconds between two heartbeats of a process."""

SILENCE = 60.0
"""Seconds without a heartbeat after which a process is reported."""

logger = logging.getLogger(__name__)
logger.setLevel(logging.WARNING)  # also in processes that show no other messages, as the first one may be silent


class Watch:
    """Who has been silent for how long, from the counters that one process reads.

    Clocks of different machines are never compared: a process is silent while its counter does not change.
    """

    def __init__(self, number: int, names: Sequence[str]) -> None:
        self._number, self._names = number, names
        self._seen: dict[int, tuple[int, float]] = {}
        self._silent: set[int] = set()

    def read(self, counters: Sequence[int], now: float) -> list[str]:
        """Take the counters of all processes at the time `now` in seconds; return the messages of this process.

        The process of the lowest number that is not silent speaks for all.
        """
        for number, counter in enumerate(counters):
            if number not in self._seen or self._seen[number][0] != counter:
                self._seen[number] = counter, now
        silent = {number for number, (_, since) in self._seen.items() if now - since >= SILENCE} - {self._number}
        speaks = self._number == min({*range(len(counters))} - silent)
        messages = [
            f"{self._names[number]} has not answered for {now - self._seen[number][1]:.0f} seconds, and the others "
            "wait for it: is it stopped, or has its machine lost the network? If it does not come back, end all "
            "processes, and continue from the last checkpoint with diffcore resume"
            for number in sorted(silent - self._silent)
        ]
        messages += [f"{self._names[number]} answers again" for number in sorted(self._silent - silent)]
        self._silent = silent
        return messages if speaks else []


@contextmanager
def heartbeats(store: Any, number: int, count: int) -> Iterator[None]:
    """Send heartbeats as process `number` of `count`, and log a warning if another process stops sending them."""
    ended = threading.Event()
    store.set(f"diffcore name {number}", f"process {number} (pid {os.getpid()} on {socket.gethostname()})")

    def beat() -> None:
        watch = None
        with_name = [f"diffcore name {other}" for other in range(count)]
        try:
            while not ended.is_set():
                store.add(f"diffcore heartbeat {number}", 1)
                if watch is None and store.check(with_name):
                    watch = Watch(number, [store.get(name).decode() for name in with_name])
                if watch is not None:
                    counters = [store.add(f"diffcore heartbeat {other}", 0) for other in range(count)]
                    for message in watch.read(counters, time.monotonic()):
                        logger.warning(message)
                ended.wait(INTERVAL)
        except (RuntimeError, ValueError):  # the store is gone, and torchrun with it
            return

    thread = threading.Thread(target=beat, name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)
