"""The texts of the records of SDF and MOL2 files."""

from collections.abc import Iterable, Iterator

LONGEST_RECORD = 4 * 2**20
"""Characters of a record, at most. A record of 999 atoms with its data takes about 0.1 MB."""


def sdf_records(lines: Iterable[str]) -> Iterator[tuple[int, str | None]]:
    """The number of each record of an SDF file, from 1, and its text; None in place of texts that are too long.

    A record ends with a line that starts with `$$$$`; the last one may lack it. Blank records are left out.
    """
    number, record = 1, _Record()
    for line in lines:
        if line.startswith("$$$$"):
            if record:
                yield number, record.text()
            number, record = number + 1, _Record()
        else:
            record.add(line)
    if record:
        yield number, record.text()


def mol2_records(lines: Iterable[str]) -> Iterator[tuple[int, str | None]]:
    """The same for a MOL2 file, in which a record starts with `@<TRIPOS>MOLECULE`."""
    number, record = 0, _Record()
    for line in lines:
        if line.startswith("@<TRIPOS>MOLECULE"):
            if number:
                yield number, record.text()
            number, record = number + 1, _Record()
        record.add(line)
    if record:
        yield max(number, 1), record.text()


class _Record:
    """The lines of one record, of which no more are kept than a record may have."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._length = 0
        self._blank = True

    def __bool__(self) -> bool:
        return not self._blank

    def add(self, line: str) -> None:
        self._length += len(line) + 1
        self._blank = self._blank and not line.strip()
        if self._length <= LONGEST_RECORD:
            self._lines.append(line)
        else:
            self._lines.clear()

    def text(self) -> str | None:
        return "\n".join([*self._lines, ""]) if self._length <= LONGEST_RECORD else None
