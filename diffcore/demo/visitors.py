"""The visitors of the page, and what belongs to each of them: files, results and kept samples."""

import secrets
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from diffcore.demo.limits import Limits
from diffcore.errors import UserError
from diffcore.runs.samples import Samples

KEPT = "kept"
"""The name of the result that holds what a visitor keeps."""
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
    """What belongs to one visitor. Nobody else can name it."""

    name: str
    folder: Path
    limits: Limits
    results: OrderedDict[str, list[Shown]] = field(default_factory=OrderedDict)
    files: OrderedDict[str, Path] = field(default_factory=OrderedDict)

    def add_result(self, run: int, samples: Samples, tiles: list[str]) -> str:
        """Remember a result in place of the oldest one, and return its name."""
        name = secrets.token_urlsafe(9)
        self.results[name] = [Shown(run, samples, row, tile) for row, tile in enumerate(tiles)]
        others = [each for each in self.results if each not in (KEPT, name)]
        while others and (len(others) >= self.limits.results or self._characters() > self.limits.result_bytes):
            del self.results[others.pop(0)]
        return name

    def _characters(self) -> int:
        return sum(len(shown.tile) for result in self.results.values() for shown in result)

    def result(self, name: str) -> list[Shown]:
        """The samples of a result. Raises `UserError` if this visitor has none of that name."""
        if name == KEPT:
            return self.results.get(KEPT, [])
        if name not in self.results:
            raise UserError("these samples are no longer here: draw them again")
        return self.results[name]

    def shown(self, result: str, row: int) -> Shown:
        """One sample of a result. Raises `UserError` if there is none."""
        every = self.result(result)
        if not 0 <= row < len(every):
            raise UserError(f"there is no sample {row} in this result")
        return every[row]

    def sample(self, result: str, row: int) -> tuple[int, Samples]:
        """The number of the run of one sample, and the sample."""
        shown = self.shown(result, row)
        return shown.run, shown.alone

    def keep(self, result: str, row: int) -> None:
        """Keep a sample, in place of the oldest one if there are too many."""
        shown = self.shown(result, row)
        alone = Shown(shown.run, shown.alone, 0, shown.tile)
        self.results[KEPT] = [*self.results.get(KEPT, []), alone][-self.limits.kept :]

    def drop(self, row: int) -> None:
        """Keep a sample no longer."""
        shown = self.shown(KEPT, row)
        self.results[KEPT] = [each for each in self.results[KEPT] if each is not shown]

    def new_file(self, ending: str) -> tuple[str, Path]:
        """The name and the path of a new file with this ending, of which only letters and digits are taken."""
        letters = "".join(letter for letter in ending.lower()[-12:] if letter in _LETTERS)
        name = secrets.token_urlsafe(9)
        path = self.folder / f"file-{len(self.files)}-{secrets.token_hex(4)}{'.' if letters else ''}{letters}"
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
        return path

    def forget(self) -> None:
        """Delete all that belongs to the visitor."""
        self.results.clear()
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
        visitor = Visitor(secrets.token_urlsafe(24), Path(tempfile.mkdtemp(prefix="diffcore-demo-")), self._limits)
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
