"""Progress of long work: a bar on a terminal, else lines in the log."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

Report = Callable[[float, str], None]
"""`report(share, text)`: how much is done, 0 to 1, and what to say beside it."""

LINE_EVERY = 10.0
"""Seconds between plain lines."""


@contextmanager
def bar(title: str) -> Iterator[Report]:
    """Show the progress of one activity until the context ends: a bar on a terminal, else lines in the log.

    Nothing is shown where the log takes no messages of the level INFO, as in a process that is not the leader.
    """
    if not logger.isEnabledFor(logging.INFO):
        yield lambda share, text: None
        return
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=False) as progress:
            task = progress.add_task(title, total=1.0, text="")
            yield lambda share, text: progress.update(task, completed=min(share, 1.0), text=text)
    else:
        report, finish = _lines(title)
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


def _lines(title: str) -> tuple[Report, Callable[[], None]]:
    """A report that prints a line every `LINE_EVERY` seconds, and what prints the last one if it was held back."""
    started = time.monotonic()
    printed = -LINE_EVERY
    held: str | None = None

    def report(share: float, text: str) -> None:
        nonlocal printed, held
        elapsed = time.monotonic() - started
        remaining = f", {clock(elapsed * (1 - share) / share)} left" if 0 < share < 1 else ""
        held = f"{title} {100 * min(share, 1):.0f} %: {text}{remaining}"
        if elapsed - printed >= LINE_EVERY:
            printed = elapsed
            finish()

    def finish() -> None:
        nonlocal held
        if held is not None:
            logger.info(held)
        held = None

    return report, finish


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, or as hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{rest:02d}"
