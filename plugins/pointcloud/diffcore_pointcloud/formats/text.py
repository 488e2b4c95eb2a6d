"""Clouds as text: a point in each row, with or without a number of points or names of columns before them."""

import re
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.formats.columns import named, plain, unnamed
from diffcore_pointcloud.formats.content import text_of
from diffcore_pointcloud.formats.shape import Shape

_COMMENT = re.compile(r"\s*(#|//|%)")
_SEPARATOR = re.compile(r"[\s,;]+")


def read(data: bytes, names: Sequence[str], ending: str) -> list[Shape]:
    """The points of a text file. Numbers are separated by spaces, tabs, commas or semicolons.

    A first line with the number of points is compared with the rows. A line with names of columns may follow, also as
    a comment, as CloudCompare writes it. With semicolons, or in columns separated by spaces, a comma may be the decimal
    point. Raises `UnusableError` if the text is not a table of numbers.
    """
    lines = [line for line in text_of(data).splitlines() if line.strip()]
    count, header, first, certain = _before_rows(lines)
    if header and certain and names and len(header) != len(names):
        raise UnusableError(f"{len(header)} columns, but `data.columns` names {len(names)}: {' '.join(names)}")
    rows = _numbers([line for line in lines[first:] if not _COMMENT.match(line)])
    if count is not None and count != len(rows):
        raise UnusableError(f"the first line announces {count:,} points, and {len(rows):,} follow")
    if header and not names and (certain or len(header) == rows.shape[1]):
        if len(header) != rows.shape[1]:
            raise UnusableError(f"names of {len(header)} columns above rows of {rows.shape[1]}")
        return [named(dict(zip(header, rows.T, strict=True)))]
    return [unnamed(rows, names, ending)]


def is_table(beginning: bytes) -> bool:
    """Whether a text file begins like a table of points: with three or more numbers in a row, or names of columns."""
    lines = [line for line in text_of(beginning).splitlines() if line.strip()]
    _, header, first, _ = _before_rows(lines)
    rows = [line for line in lines[first:] if not _COMMENT.match(line)]
    return bool(rows) and len(words := _words(rows[0])) >= 3 and (bool(header) or _are_numbers(words))


def _before_rows(lines: Sequence[str]) -> tuple[int | None, list[str], int, bool]:
    """The number of points that the text announces, the names of its columns, and the index of the first other line.

    The last value is False if the names are in a comment, which may just be a sentence about x, y and z.
    """
    count: int | None = None
    header: list[str] = []
    certain = False
    for index, line in enumerate(lines):
        words, comment = _words(_COMMENT.sub("", line)), bool(_COMMENT.match(line))
        if {"x", "y", "z"} <= {plain(word) for word in words}:
            header, certain = words, not comment
        elif comment:
            continue
        elif count is None and not certain and len(words) == 1 and words[0].isdecimal():
            count = int(words[0])
        else:
            return count, header, index, certain
    return count, header, len(lines), certain


_UNIT = re.compile(r"[\[(][^\])]*[\])]")


def _words(line: str) -> list[str]:
    """The words of a line, without units in brackets, as in `x [m]`."""
    line = _UNIT.sub("", line)
    return [word.strip("\"'") for word in _SEPARATOR.split(line.strip().strip(",;")) if word]


def _are_numbers(words: Sequence[str]) -> bool:
    try:
        return bool([float(word) for word in words])
    except ValueError:
        return False


def _numbers(lines: list[str]) -> NDArray[numpy.float64]:
    """The numbers in lines, `[n, k]`."""
    if not lines:
        raise UnusableError("no points")
    delimiter = next((mark for mark in (";", "\t") if mark in lines[0]), None)
    if delimiter is None and "," in lines[0] and not _has_decimal_commas(lines[0]):
        delimiter = ","
    if delimiter != "," and "," in lines[0]:
        lines = [line.replace(",", ".") for line in lines]
    lines = [line.replace('"', "").strip() for line in lines]
    if delimiter is not None:
        lines = [line.rstrip(delimiter) for line in lines]
    try:
        return numpy.loadtxt(lines, delimiter=delimiter, comments=("#", "//"), ndmin=2)
    except ValueError as error:
        raise UnusableError(f"text that is not rows of numbers: {str(error).split(';')[0][:80]}") from None


def _has_decimal_commas(line: str) -> bool:
    """Whether a line is like `0,25 1,5 2,0`: numbers separated by spaces, each with one comma and no point."""
    words = line.split()
    return len(words) >= 3 and all(re.fullmatch(r"[+-]?\d+,\d+([eE][+-]?\d+)?", word) for word in words)
