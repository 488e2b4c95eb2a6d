"""The visitors of the page, and what belongs to each of them: files, results and kept samples."""

import itertools
import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from diffcore.demo.limits import Limits
from diffcore.demo.words import PREFIX
from diffcore.errors import UserError
from diffcore.runs.samples import Samples

KEPT = "kept"
"""The name of what a visitor keeps, in place of that of a result."""
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


@dataclass(frozen=True, eq=False)
class Shown:
    """One sample of the run with the number `run`, and the HTML fragment that shows it."""

    run: int
    samples: Samples
    row: int
    tile: str

    @property
    def alone(self) -> Samples:
        """The sample as a batch of one."""
        return self.samples.taken([self.row])


@dataclass(eq=False)
class Visitor:
    """What belongs to one visitor. Nobody else can name it.

    `kept` are the kept samples by numbers that are never used again, so a request that waits, or a page that is open,
    does not mean another sample when one is dropped. The thread that draws adds results while requests are answered.
    """

    name: str
    folder: Path
    limits: Limits
    results: OrderedDict[str, list[Shown]] = field(default_factory=OrderedDict)
    files: OrderedDict[str, Path] = field(default_factory=OrderedDict)
    kept: dict[int, Shown] = field(default_factory=dict)
    forgotten: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def add_result(self, run: int, samples: Samples, tiles: list[str]) -> str:
        """Remember a result in place of the oldest ones, and return its name. A forgotten visitor keeps nothing."""
        name = secrets.token_urlsafe(9)
        with self._lock:
            if self.forgotten:
                return name
            self.results[name] = [Shown(run, samples, row, tile) for row, tile in enumerate(tiles)]
            while len(self.results) > 1 and (
                len(self.results) > self.limits.results or self._characters() > self.limits.result_bytes
            ):
                self.results.popitem(last=False)
        return name

    def _characters(self) -> int:
        return sum(len(shown.tile) for result in self.results.values() for shown in result)

    def result(self, name: str) -> list[Shown]:
        """The samples of a result. Raises `UserError` if this visitor has none of that name."""
        if name == KEPT:
            return list(self.kept.values())
        if (result := self.results.get(name)) is None:
            raise UserError("these samples are no longer here: draw them again")
        return result

    def shown(self, result: str, number: int) -> Shown:
        """One sample of a result, or of those that are kept, by its number there. Raises `UserError` if it is gone."""
        if result == KEPT:
            if (kept := self.kept.get(number)) is None:
                raise UserError("this sample is no longer kept: choose another one")
            return kept
        every = self.result(result)
        if not 0 <= number < len(every):
            raise UserError(f"there is no sample {number} in this result")
        return every[number]

    def sample(self, result: str, number: int) -> tuple[int, Samples]:
        """The number of the run of one sample, and the sample."""
        shown = self.shown(result, number)
        return shown.run, shown.alone

    def keep(self, result: str, number: int) -> None:
        """Keep a sample, in place of the oldest ones if there are too many, or if they are too large."""
        shown = self.shown(result, number)
        with self._lock:
            self.kept[next(self._numbers)] = Shown(shown.run, shown.alone, 0, shown.tile)
            while len(self.kept) > 1 and (
                len(self.kept) > self.limits.kept
                or sum(len(each.tile) for each in self.kept.values()) > self.limits.result_bytes
            ):
                del self.kept[next(iter(self.kept))]

    def drop(self, number: int) -> None:
        """Keep a sample no longer."""
        self.shown(KEPT, number)
        del self.kept[number]

    def new_file(self, ending: str) -> tuple[str, Path]:
        """The name and path of a new file with this ending, of one or two parts of letters and digits (.sdf.gz)."""
        words = ending.lower()[-18:].split(".")[-2:]
        parts = ["".join(letter for letter in word if letter in _LETTERS) for word in words]
        end = "".join(f".{part}" for part in parts if part)
        if self.forgotten:
            raise UserError("this page was forgotten, as others were opened: open it again")
        name = secrets.token_urlsafe(9)
        path = self.folder / f"file-{len(self.files)}-{secrets.token_hex(4)}{end}"
        self.files[name] = path
        while len(self.files) > self.limits.files:
            _, old = self.files.popitem(last=False)
            old.unlink(missing_ok=True)
        return name, path

    def file(self, name: str) -> Path:
        """The path of a file of this visitor. Raises `UserError` if there is none of that name."""
        path = self.files.get(name)
        if path is None or not path.is_file():
            raise UserError("this file is no longer here: choose it again")
        self.files.move_to_end(name)  # those that are used are not the first to be deleted
        return path

    def forget(self) -> None:
        """Delete all that belongs to the visitor."""
        with self._lock:
            self.forgotten = True  # what is being drawn for the visitor ends at its next step
            self.results.clear()
            self.kept.clear()
            self.files.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


class Visitors:
    """The visitors by their names, which are secrets; the one that was away longest is forgotten for a new one."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._known = limits, OrderedDict[str, Visitor]()

    def __len__(self) -> int:
        return len(self._known)

    def new(self) -> Visitor:
        """A new visitor."""
        visitor = Visitor(secrets.token_urlsafe(24), Path(tempfile.mkdtemp(prefix=PREFIX)), self._limits)
        self._known[visitor.name] = visitor
        while len(self._known) > self._limits.visitors:
            self._known.popitem(last=False)[1].forget()
        return visitor

    def known(self, name: str) -> Visitor | None:
        """The visitor of that name, or None."""
        visitor = self._known.get(name)
        if visitor is not None:
            self._known.move_to_end(name)
        return visitor

    def forget_all(self) -> None:
        """Delete all that belongs to any visitor."""
        while self._known:
            self._known.popitem()[1].forget()
