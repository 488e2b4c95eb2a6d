"""Requests that wait for the device, and the thread that serves them one after another."""

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from diffcore.demo.limits import Limits
from diffcore.demo.visitors import Visitor
from diffcore.demo.wanted import Wanted
from diffcore.demo.words import FAILED, told
from diffcore.errors import RAISED_BY_PLUGINS, UserError

logger = logging.getLogger(__name__)

FINISHED_KEPT = 200
"""So many finished requests are remembered, so that visitors learn how theirs ended."""


class CancelledError(Exception):
    """A visitor no longer wants what is being drawn."""


@dataclass(eq=False)
class Job:
    """A request, and how far it is.

    `version` grows with each change. `tiles` are the fragments of the newest samples, finished or not; `result` is the
    name of the finished ones. Only the thread of `Jobs` changes a job, except for `cancelled`.
    """

    visitor: Visitor
    wanted: Wanted
    name: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    state: Literal["waiting", "running", "done", "failed", "cancelled"] = "waiting"
    version: int = 0
    done: float = 0.0
    tiles: list[str] = field(default_factory=list)
    pictured: int = 0
    result: str | None = None
    message: str = ""
    cancelled: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ("done", "failed", "cancelled")

    def show(self, tiles: list[str], done: float) -> None:
        """Show how far it is, with new fragments if there are any. Raises `CancelledError` if it is not wanted."""
        if self.cancelled or self.visitor.forgotten:
            raise CancelledError
        if tiles:
            self.tiles, self.pictured = tiles, self.version + 1
        self.done = done
        self.version += 1

    def end(self, state: Literal["done", "failed", "cancelled"], message: str = "") -> None:
        """It ends."""
        self.message, self.state = message, state
        self.version += 1


class Jobs:
    """The queue. `work(job)` draws what a job asks for and returns the name of the result; one is served at a time."""

    def __init__(self, work: Callable[[Job], str], limits: Limits) -> None:
        self._work, self._limits = work, limits
        self._jobs = OrderedDict[str, Job]()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="diffcore-demo", daemon=True)
        self._thread.start()

    def add(self, visitor: Visitor, wanted: Wanted) -> Job:
        """Put a request at the end of the queue. Raises `UserError` if too many wait."""
        with self._changed:
            waiting = [job for job in self._jobs.values() if not job.ended]
            own = [job for job in waiting if job.visitor is visitor]
            if len(own) >= self._limits.waiting_of_one or len(waiting) >= self._limits.waiting or self._closed:
                raise UserError("too many requests are waiting: wait until some of them are done")
            job = Job(visitor, wanted)
            self._jobs[job.name] = job
            self._changed.notify()
        return job

    def of(self, visitor: Visitor, name: str) -> Job:
        """The job of that name. Raises `UserError` if this visitor has none."""
        job = self._jobs.get(name)
        if job is None or job.visitor is not visitor:
            raise UserError("this request is no longer known: send it again")
        return job

    def ahead(self, job: Job) -> int:
        """How many requests are served before a waiting one."""
        with self._changed:
            names = [each.name for each in self._jobs.values() if not each.ended]
        return names.index(job.name) if job.name in names else 0

    def cancel(self, job: Job) -> None:
        """Take a job from the queue, or end it at its next step."""
        with self._changed:
            job.cancelled = True
            if job.state == "waiting":
                job.end("cancelled")

    def close(self) -> None:
        """End all jobs, and wait for the thread."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                job.cancelled = True
                if job.state == "waiting":
                    job.end("cancelled")
            self._changed.notify()
        self._thread.join(timeout=30)

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.show([], 0.0)  # nobody waits for what a forgotten visitor asked for
                job.result = self._work(job)
                job.end("done")
            except CancelledError:
                job.end("cancelled")
            except UserError as error:
                job.end("failed", told(error))
            except RAISED_BY_PLUGINS:
                logger.exception("a request of the page failed")
                job.end("failed", FAILED)
            self._forget()

    def _next(self) -> Job | None:
        """The next job, which is now running; None when all is over."""
        with self._changed:
            while not self._closed:
                job = next((each for each in self._jobs.values() if each.state == "waiting"), None)
                if job is not None:
                    job.state = "running"
                    job.version += 1
                    return job
                self._changed.wait()
        return None

    def _forget(self) -> None:
        with self._changed:
            ended = [job.name for job in self._jobs.values() if job.ended]
            for name in ended[:-FINISHED_KEPT]:
                del self._jobs[name]
            for name in ended[:-20]:  # their samples are kept by the visitor, if at all
                if name in self._jobs:
                    self._jobs[name].tiles = []
