"""The folder of a search, which is written while it goes on, so that an interruption loses at most one batch.

candidates.csv   a line for each sample that was judged: number, round, parent, strength, value, failed, identity
rounds.csv       a line for each round that is complete
recipe.json      from what the samples are drawn and what is searched for
N-COUNT.safetensors   the states of samples
"""

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import Timeout

from diffcore.errors import UserError
from diffcore.plugins.data import Encoded
from diffcore.runs.kept_states import keep, kept_files, read_kept
from diffcore.runs.lock import acquire
from diffcore.sampling.evolution import Candidate
from diffcore.system.files import read_json, read_regular, utf8_lines, write_atomically, write_json

_COLUMNS = ("number", "round", "parent", "strength", "score", "failed", "identity")


@dataclass(frozen=True)
class SearchFolder:
    """The folder of a search that this process has locked (`search_folder`)."""

    path: Path

    @property
    def candidates(self) -> Path:
        """The table of all samples that were judged."""
        return self.path / "candidates.csv"

    def keep(self, candidates: Sequence[Candidate], encoded: Encoded) -> None:
        """Write all candidates, and the states `encoded` of the last ones, whose numbers are consecutive."""
        count = encoded.state.shape[0]
        keep(self.path, candidates[-count].number, encoded, count)
        _write_table(self.candidates, _COLUMNS, [[getattr(each, name) for name in _COLUMNS] for each in candidates])

    def read(self) -> Iterator[tuple[list[Candidate], Encoded]]:
        """The candidates of each complete batch with their states, in order.

        Raises `UserError` if a file is damaged.
        """
        there = {each.number: each for each in self._read_candidates()} if self.candidates.is_file() else {}
        for rows, path in kept_files(self.path).items():
            if all(number in there for number in rows):
                yield [there[number] for number in rows], read_kept(path, len(rows))

    def _read_candidates(self) -> Iterator[Candidate]:
        content = read_regular(self.candidates, self.candidates.stat().st_size)
        for row in csv.DictReader(utf8_lines(content, str(self.candidates))):
            try:
                yield Candidate(
                    int(row["number"]),
                    int(row["round"]),
                    int(row["parent"]) if row["parent"] else None,
                    float(row["strength"]),
                    float(row["score"]) if row["score"] else None,
                    int(row["failed"]),
                    row["identity"] or None,
                )
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{self.candidates} is damaged: delete {self.path}, and the search begins again"
                ) from None

    def write_rounds(self, rounds: Sequence[Any]) -> None:
        """Write the table of rounds, which are records of numbers."""
        names = [each.name for each in fields(rounds[0])]
        _write_table(self.path / "rounds.csv", names, [[*asdict(each).values()] for each in rounds])


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    write_atomically(path, text.getvalue().encode())


@contextlib.contextmanager
def search_folder(path: Path, recipe: Mapping[str, Any], replace: bool = False) -> Iterator[SearchFolder]:
    """The folder of the search of this recipe, locked. It is made where there is none.

    Raises `UserError` if it contains the search of another recipe, unless `replace` is true, if it is not a folder of
    a search, or if another command uses it.
    """
    place, folder = path / "recipe.json", SearchFolder(path)
    if path.exists() and not place.is_file() and any(path.iterdir() if path.is_dir() else [path]):
        raise UserError(f"{path} exists already and is not a folder of a search: choose another `out`")
    path.mkdir(parents=True, exist_ok=True)
    try:
        lock = acquire(
            path / "lock", f"the file system of {path} has no locks: make sure that no other command uses it"
        )
    except Timeout:
        raise UserError(f"another command is searching in {path}: choose another `out`") from None
    try:
        stored = read_json(place) if place.is_file() else recipe
        if stored != recipe:
            if not replace:
                names = [name for name in {**stored, **recipe} if stored.get(name) != recipe.get(name)]
                raise UserError(
                    f"{path} contains a search for something else (it differs in {', '.join(names[:3])}): choose "
                    "another `out`, or `replace` it"
                )
            for old in [*kept_files(path).values(), folder.candidates, path / "rounds.csv"]:
                old.unlink(missing_ok=True)
        write_json(place, recipe)
        yield folder
    finally:
        lock.release()
