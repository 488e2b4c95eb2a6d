"""The content of a user's file, within limits, and the exceptions that reading it can raise."""

import io
import os
import re
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy
from numpy.typing import NDArray
from PIL import Image

from diffcore.plugins.folders import UnusableError

MOST_BYTES = 2**31
"""The largest file that is read."""
MOST_TEXT = 2**29
"""The largest number of bytes of a file that is text, which takes several times as much memory while it is read."""
MOST_DECODED = 2**29
"""The largest number of bytes that the content of a compressed file may have, together."""
MOST_FACES = 2**24
"""The largest number of triangles of a shape."""

PICTURES = ("PNG", "JPEG", "BMP", "TGA", "WEBP")
"""The formats of textures. Pillow decodes others with programs that a picture can make do anything (Ghostscript)."""
MOST_PIXELS = 2**27
"""The largest number of pixels of all textures of a file together."""

READ_ERRORS: tuple[type[Exception], ...] = (
    UnusableError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)
"""What reading a damaged file of meshes or of clouds can raise. Every reader of files catches these and no others."""


def content(path: Path) -> bytes:
    """All bytes of a regular file; a link to one is followed.

    Raises `UnusableError` for folders, pipes and devices, which could block forever, and for files that are too large.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableError("a folder, a pipe or a device, not a file")
        if status.st_size > MOST_BYTES:
            raise UnusableError(f"{status.st_size:,} bytes; at most {MOST_BYTES:,} are read")
        return file.read(MOST_BYTES)


def text_of(data: bytes) -> str:
    """The text in UTF-8 or UTF-16, with or without a byte order mark; otherwise in Latin-1, which all bytes are.

    Raises `UnusableError` if it is longer than `MOST_TEXT`.
    """
    require_text(data)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def require_text(data: bytes) -> None:
    """Raise `UnusableError` if there are more bytes than are read as text."""
    if len(data) > MOST_TEXT:
        raise UnusableError(f"{len(data):,} bytes of text; at most {MOST_TEXT:,} are read")


def beside(path: Path) -> Callable[[str], bytes | None]:
    """A function that returns the content of a file in the folder of `path` by its name.

    It returns None for names with a folder, for files that do not exist, and for all that is not a regular file or is
    a link: a file that somebody sent cannot name others outside of its own folder, nor block its reader.
    """

    def read(name: str) -> bytes | None:
        other = path.parent / name
        if not name or other.parent != path.parent or other.is_symlink():
            return None
        try:
            return content(other)
        except (OSError, ValueError, UnusableError):
            return None

    return read


class Pictures:
    """Decodes the textures of one file, each once, up to `MOST_PIXELS` together."""

    def __init__(self) -> None:
        self._left = MOST_PIXELS
        self._decoded: dict[bytes, NDArray[numpy.uint8] | None] = {}

    def pixels(self, data: bytes) -> NDArray[numpy.uint8] | None:
        """The pixels `[H, W, 3]` of a picture in one of the formats `PICTURES`; None if it cannot be decoded.

        Raises `UnusableError` if the file has more pixels than are decoded.
        """
        if data not in self._decoded:
            self._decoded[data] = self._decode(data)
        return self._decoded[data]

    def _decode(self, data: bytes) -> NDArray[numpy.uint8] | None:
        try:
            with Image.open(io.BytesIO(data), formats=PICTURES) as image:
                self._left -= image.width * image.height
                if self._left >= 0:
                    return numpy.asarray(image.convert("RGB"))
        except READ_ERRORS:
            return None
        raise UnusableError(f"textures of more than {MOST_PIXELS:,} pixels")


def reason(error: Exception) -> str:
    """Why a file cannot be used, in a few words, for one of `READ_ERRORS`."""
    match error:
        case UnusableError():
            return str(error)
        case MemoryError():
            return "too large for the memory of this machine"
        case OSError() if error.strerror:
            return error.strerror
        case _:
            return f"damaged: {short(error)}"


def short(error: Exception) -> str:
    """The message of an exception as one short line."""
    lines = str(error).strip().splitlines()
    line = re.sub(r"\s+", " ", lines[0])[:100] if lines else ""
    return f"{type(error).__name__} {line}".strip() if isinstance(error, LookupError) or not line else line
