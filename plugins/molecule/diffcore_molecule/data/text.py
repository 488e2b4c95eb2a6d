"""Text files of users: compressed or not, in the usual encodings, with any line ends."""

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from diffcore.errors import UserError, first_line
from diffcore.system.bounded import bounded

LONGEST_LINE = 2**20
"""Characters of a line, at most; the rest of a longer line counts as another line."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; the four bytes of UTF-32 begin with the two of UTF-16."""


def encoding_of(head: bytes) -> str:
    """The encoding of a text that starts with `head`: by its byte order mark, by zero bytes in UTF-16, else UTF-8."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) > len(head) // 4:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


@contextmanager
def opened(path: Path) -> Iterator[tuple[TextIO, Callable[[], float]]]:
    """The text of a file, and a function that returns which part of the file has been read, 0 to 1.

    Files that end in .gz are decompressed, but only to a bounded size (`diffcore.system.bounded`). Every kind of line
    end is read as a newline, and bytes that are not text as the replacement character. Raises `UserError` if the file
    cannot be read.
    """
    try:
        with path.open("rb") as raw:
            size = max(os.fstat(raw.fileno()).st_size, 1)
            stream: io.BufferedReader = raw
            if path.suffix.lower() == ".gz":
                stream = bounded(gzip.GzipFile(fileobj=raw), path, size)  # type: ignore[arg-type]
            encoding = encoding_of(stream.peek(256)[:256])
            with io.TextIOWrapper(stream, encoding, errors="replace", newline=None) as text:
                yield text, lambda: min(raw.tell() / size, 1.0)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}; it may be damaged or incomplete") from None


def lines_of(text: TextIO) -> Iterator[str]:
    """The lines of a text, without line ends, of at most `LONGEST_LINE` characters."""
    while line := text.readline(LONGEST_LINE):
        yield line.removesuffix("\n")
