"""Bounded reading of compressed files, so that a small file cannot decode to more than a machine can hold."""

import io
from typing import IO

from diffcore.errors import UserError

LEAST = 64 * 2**20
"""Bytes to which every compressed file may decode."""
MOST_RATIO = 100
"""How many times its own size a larger file may decode to. Measured data rarely reach 20."""


class Bounded(io.RawIOBase):
    """The bytes of a decoder, up to `most` bytes. Reading more raises `UserError`, whose message names `path`."""

    def __init__(self, stream: IO[bytes], path: object, most: int) -> None:
        self._stream, self._path, self._most, self._read = stream, path, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._stream.read(len(buffer))
        self._read += len(content)
        if self._read > self._most:
            raise UserError(
                f"{self._path} decodes to more than {self._most:,} bytes, over {MOST_RATIO} times its size: it is "
                "refused; decode it yourself if it is what you expect"
            )
        buffer[: len(content)] = content
        return len(content)


def bounded(stream: IO[bytes], path: object, compressed: int) -> io.BufferedReader:
    """The bytes of `stream`, the decoder of a file `path` of `compressed` bytes.

    At most `LEAST` bytes or `MOST_RATIO` times the compressed size are read, whichever is more.
    """
    return io.BufferedReader(Bounded(stream, path, max(LEAST, MOST_RATIO * compressed)))
