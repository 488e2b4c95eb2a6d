"""SMILES in tables and lists: which column they are in, and how columns are separated."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from rdkit import Chem

from diffcore.errors import UserError, did_you_mean

DEFAULT_COLUMN = "smiles"
"""The value of `data.column` with which the column is found by its name or by its content."""
_HEAD = 40
"""The number of lines from which the layout is found."""
_LONGEST_TRIED = 500
"""Longer cells are not tried as SMILES when the layout is found."""


@dataclass(frozen=True)
class Layout:
    """How a table is written."""

    delimiter: str | None
    """The character between two columns; None for spaces and tabs of any number."""
    column: int
    """The index of the column of SMILES."""
    header: tuple[str, ...] = ()
    """The names of the columns, if the first row has them."""
    named: bool = False
    """Whether the column was found by its name in the header."""

    def note(self) -> str:
        """A line for the user about what was found by the content alone; empty if the names told it."""
        if self.named or (not self.header and not self.column):
            return ""
        row = f"the first row is taken as a header ({', '.join(self.header[:8])}), " if self.header else ""
        return f"{row}column {self.column + 1} is taken as the SMILES, because of its content"


def smiles_cells(lines: Iterable[str], column: str, where: object) -> tuple[Layout, Iterator[tuple[int, str]]]:
    """The layout of a table of SMILES, and the line number and the SMILES of each row.

    Columns are separated by tabs, semicolons or commas, with quotes as in CSV, or by spaces. The column is the one that
    the header calls `column` (in any case), or, if `column` is `DEFAULT_COLUMN`, one whose name contains it, or the one
    whose cells are SMILES. Blank lines and lines that start with `#` are skipped. Raises `UserError`, which names
    `where`, if there is no such column.
    """
    layout, start, rest = _opened(lines, column, where)
    return layout, _cells(rest, start, layout, layout.column, where)


def cells_beside(lines: Iterable[str], column: str, name: str, where: object) -> Iterator[tuple[int, str]] | None:
    """The line number and the cell in the column `name`, in any case, of each row of a table of SMILES.

    `column` is that of the SMILES, as in `smiles_cells`. None if the header has no such name.
    """
    layout, start, rest = _opened(lines, column, where)
    names = [each.lower() for each in layout.header]
    if name.lower() not in names:
        return None
    return _cells(rest, start, layout, names.index(name.lower()), where)


def _opened(lines: Iterable[str], column: str, where: object) -> tuple[Layout, int, Iterator[str]]:
    """The layout of a table, the number of its first lines that are not part of it, and the others."""
    rest = iter(lines)
    head = list(islice(rest, _HEAD))
    first = next((index for index, line in enumerate(head) if not _skipped(line)), len(head))
    separator = re.fullmatch(r"sep=(.)", head[first].strip()) if first < len(head) else None
    start = first + 1 if separator else first
    layout = _layout([line for line in head[start:] if not _skipped(line)], column, where)
    return layout, start, chain(head[start:], rest)


def _skipped(line: str) -> bool:
    return not line.strip() or (line.startswith("#") and not re.match(r"#\s*\w*smiles", line, re.IGNORECASE))


def _cells(lines: Iterable[str], start: int, layout: Layout, column: int, where: object) -> Iterator[tuple[int, str]]:
    skip_header = bool(layout.header)
    for number, row in _rows(lines, start, layout.delimiter, where):
        if skip_header:
            skip_header = False
            continue
        yield number, row[column].strip() if column < len(row) else ""


def _rows(
    lines: Iterable[str], start: int, delimiter: str | None, where: object
) -> Iterator[tuple[int, Sequence[str]]]:
    """The number of the last line of each row, and its cells."""
    if delimiter is None:
        for number, line in enumerate(lines, start + 1):
            if not _skipped(line):
                yield number, [_unquoted(word) for word in line.split()]
        return
    reader = csv.reader(("" if _skipped(line) else f"{line}\n" for line in lines), delimiter=delimiter)
    try:
        for row in reader:
            if row:
                yield start + reader.line_num, row
    except csv.Error as error:
        raise UserError(f"line {start + reader.line_num} of {where} cannot be read as a table: {error}") from None


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word


def _layout(head: Sequence[str], column: str, where: object) -> Layout:
    """The layout that fits the first lines best: a header that names the column, then the most cells with SMILES."""
    tried = [_tried(head, delimiter, column) for delimiter in ("\t", ";", ",", None)]
    fits, layout = max(tried, key=lambda pair: pair[0])
    if layout.named or not head:
        return layout
    if column.lower() != DEFAULT_COLUMN:
        names = [name.strip() for name in layout.header or _first_row(head, layout.delimiter)]
        raise UserError(
            f"{where} has no column {column!r}{did_you_mean(column, names)}: `data.column` must name the column of the "
            f"SMILES, one of {', '.join(names)}"
        )
    return layout if fits[1] else Layout(None, 0)


def _first_row(head: Sequence[str], delimiter: str | None) -> Sequence[str]:
    return next((row for _, row in _rows(head, 0, delimiter, "the table")), [])


def _tried(head: Sequence[str], delimiter: str | None, column: str) -> tuple[tuple[bool, float, bool], Layout]:
    """How well a delimiter fits the first lines, and the best layout with it."""
    try:
        rows = [row for _, row in _rows(head, 0, delimiter, "the table")]
    except UserError:
        rows = []
    if not rows or (delimiter is not None and not any(len(row) > 1 for row in rows)):
        return (False, 0.0, False), Layout(delimiter, 0)
    if (named := _named(rows[0], column)) is not None:
        layout = Layout(delimiter, named, _names(rows[0]), named=True)
        return (True, _share(rows[1:], named), delimiter is not None), layout
    width = max(map(len, rows))
    shares = [_share(rows, index) for index in range(min(width, 20))]
    best = max(range(len(shares)), key=lambda index: shares[index])
    body = _share(rows[1:], best)
    headed = len(rows) > 1 and body == 1 and best < len(rows[0]) and not any(_is_smiles(cell) for cell in rows[0])
    header = _names(rows[0]) if headed else ()
    return (False, body if headed else shares[best], delimiter is not None), Layout(delimiter, best, header)


def _names(row: Sequence[str]) -> tuple[str, ...]:
    return tuple(" ".join(cell.split()) for cell in row)


def _named(row: Sequence[str], column: str) -> int | None:
    """The index of the cell of a header that names the column; None if there is none."""
    cells = [cell.strip().lstrip("#").strip().lower() for cell in row]
    if column.lower() in cells:
        return cells.index(column.lower())
    if column.lower() != DEFAULT_COLUMN:
        return None
    like = [index for index, cell in enumerate(cells) if re.fullmatch(r"[\w .-]*smiles[\w .-]*", cell)]
    return like[0] if like else None


def _share(rows: Sequence[Sequence[str]], index: int) -> float:
    """The fraction of rows whose cell at `index` is a SMILES; rows in which it is empty do not count."""
    cells = [row[index].strip() if index < len(row) else "?" for row in rows]
    filled = [cell for cell in cells if cell]
    return sum(map(_is_smiles, filled)) / len(filled) if filled else 0.0


def _is_smiles(cell: str) -> bool:
    """Whether a cell has the syntax of a SMILES. An extension between bars may follow, after a space."""
    words = cell.strip().split()
    if not words or len(cell) > _LONGEST_TRIED or not all(word.startswith("|") for word in words[1:2]):
        return False
    try:
        return Chem.MolFromSmiles(words[0], sanitize=False) is not None
    except (RuntimeError, ValueError):
        return False
