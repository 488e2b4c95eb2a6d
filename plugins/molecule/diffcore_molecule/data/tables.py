"""Tables of values of properties: CSV files with a column for each."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from diffcore.errors import UserError, did_you_mean
from diffcore.system.files import read_regular, utf8_lines

MOST_BYTES = 64 * 2**20
"""Bytes of a table, at most."""


def read_values(path: Path, names: Sequence[str]) -> list[list[float]]:
    """The values of the columns `names` in each row of a table, in their order; other columns are ignored.

    Raises `UserError` if the file is missing or is not a table, if a column is missing, and for a cell that is not a
    finite number.
    """
    try:
        content = read_regular(path.resolve(), MOST_BYTES)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    rows = [row for row in csv.reader(utf8_lines(content, str(path))) if row]
    if not rows:
        raise UserError(f"{path} is empty; it must be a table with the columns {', '.join(names)}")
    head = [cell.strip() for cell in rows[0]]
    if missing := [name for name in names if name not in head]:
        there = ", ".join(head)[:200]
        raise UserError(
            f"{path} has no column {missing[0]!r}{did_you_mean(missing[0], head)}; the table must have the columns "
            f"{', '.join(names)}, and it has {there}"
        )
    if len(rows) < 2:
        raise UserError(f"{path} has no rows below the names of its columns")
    columns = [head.index(name) for name in names]
    return [
        [_number(path, line, name, row, column) for name, column in zip(names, columns, strict=True)]
        for line, row in enumerate(rows[1:], 2)
    ]


def _number(path: Path, line: int, name: str, row: Sequence[str], column: int) -> float:
    cell = row[column].strip() if column < len(row) else ""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}, row {line}: {name} is {cell[:40]!r}, not a number")
    return value
