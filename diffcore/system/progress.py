"""Progress of long work: a bar on a terminal, else lines in the log."""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from diffcore.system.messages import Messages


@contextmanager
def _python_random_state_kept() -> Iterator[None]:
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


with _python_random_state_kept():  # rich draws a random number when it is imported
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

logger = logging.getLogger(__name__)

LINE_EVERY = 10.0
"""Seconds between plain lines."""


class Report(Protocol):
    """Says how much is done, 0 to 1, with a text beside it, and the seconds that are left where they are known."""

    def __call__(self, done: float, text: str, seconds_left: float | None = None) -> None: ...


@contextmanager
def bar(title: str) -> Iterator[Report]:
    """Show the progress of one activity until the context ends: a bar on a terminal, else lines in the log.

    The time left is what the activity reports; without that, it follows from the time that the context has taken.
    Nothing is shown where the log takes no messages of the level INFO, as in a process that is not the leader.
    """
    if not logger.isEnabledFor(logging.INFO):
        yield lambda done, text, seconds_left=None: None
        return
    started = time.monotonic()
    console = Console(file=Messages())  # type: ignore[arg-type]
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            TextColumn("{task.fields[left]}"),
        )
        with Progress(*columns, console=console, transient=False) as progress:
            task = progress.add_task(title, total=1.0, text="", left="")

            def show(done: float, text: str, seconds_left: float | None = None) -> None:
                progress.update(task, completed=min(done, 1.0), text=text, left=_left(done, seconds_left, started))

            yield show
    else:
        report, finish = _lines(title, started)
        yield report
        finish()


@contextmanager
def counter(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` are done; what is yielded takes how many more are."""
    done = 0
    with bar(title) as report:

        def more(count: int) -> None:
            nonlocal done
            done += count
            report(done / total, f"{done} of {total}")

        yield more


def _lines(title: str, started: float) -> tuple[Report, Callable[[], None]]:
    """A report that logs a line every `LINE_EVERY` seconds, and what logs the last one if it was held back."""
    printed = -LINE_EVERY
    held: str | None = None

    def report(done: float, text: str, seconds_left: float | None = None) -> None:
        nonlocal printed, held
        elapsed = time.monotonic() - started
        left = _left(done, seconds_left, started)
        held = f"{title} {100 * min(done, 1):.0f} %: {text}" + (f", {left}" if left else "")
        if elapsed - printed >= LINE_EVERY:
            printed = elapsed
            finish()

    def finish() -> None:
        nonlocal held
        if held is not None:
            logger.info(held)
        held = None

    return report, finish


def _left(done: float, seconds_left: float | None, started: float) -> str:
    """The time left in words; nothing at the ends and where it is not known."""
    if not 0 < done < 1:
        return ""
    if seconds_left is None:
        seconds_left = (time.monotonic() - started) * (1 - done) / done
    return f"{clock(seconds_left)} left" if math.isfinite(seconds_left) else ""


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, or as hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{rest:02d}"
