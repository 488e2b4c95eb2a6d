"""What a file of a picture holds, as Pillow finds it.

Only the formats of `FORMATS` are opened, because some of Pillow's other decoders start programs (Ghostscript) or
recognise a file without being able to read it. Whatever a damaged or hostile file makes Pillow raise is caught here.
"""

import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from diffcore.errors import first_line
from diffcore.plugins.folders import UnusableError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, by their names in Pillow. MPO is JPEG with further pictures behind the first one."""

ENDINGS = frozenset(
    ending
    for ending, name in Image.registered_extensions().items()
    if name in FORMATS and (name in Image.OPEN or name == "MPO")
)
"""The endings of their files, without those of formats that this build of Pillow cannot read."""

MOST_PIXELS = 2**27
"""Pixels of a picture, at most: 134 million, which take about 2 GB while they are converted."""

_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
)
"""What Pillow raises for damaged files."""

_WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Modes with more than 8 bits."""

_PLAIN = {"1": "L", "L": "L", "RGB": "RGB", "CMYK": "CMYK", "LA": "LA", "La": "LA", "RGBA": "RGBA", "RGBa": "RGBA"}
"""What modes are converted to that are neither wide nor a palette nor another space of colours."""

_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 274, 258, 262
"""Numbers of fields of EXIF and of TIFF."""

UPRIGHT = 1
"""The EXIF orientation of most pictures; 2 to 8 are mirrored or turned."""


@dataclass(frozen=True)
class Stored:
    """A picture as it is stored in a file."""

    image: Image.Image
    """The pixels, of mode L, LA, RGB, RGBA, CMYK, or of more than 8 bits: I;16, I or F."""
    white: int | None
    """For more than 8 bits: the value of white. None where nothing says what it is."""
    inverted: bool
    """For more than 8 bits: whether 0 is white instead, and `white` is black."""
    clear: tuple[int, ...] | None
    """The value of the pixels that are transparent, where there is such a value."""
    profile: bytes | None
    """The ICC profile of the colours."""
    orientation: int
    """How the pixels lie, by EXIF. They are upright in TIFF, because Pillow turns those pictures itself."""
    lay: int
    """How they lay in the file."""
    more: bool
    """Whether there are more frames or pages."""


class _Quiet:
    """A context without warnings, for any number of threads at a time.

    All threads share the filters of warnings: the first one that reads a picture changes them, and the last restores
    them.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._kept = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._kept = warnings.catch_warnings()
                self._kept.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._kept.__exit__(None, None, None)


_QUIET = _Quiet()

Source = Path | bytes
"""A file, or the content of one."""


def read(source: Source) -> Stored:
    """Read the first picture of a file.

    Raises `UnusableError` with the reason if the path is not a regular file, or if the file is damaged, larger than
    `MOST_PIXELS`, or not in one of `FORMATS`. Warnings of Pillow are switched off: they are about damage that pixels
    do not suffer from.
    """
    if isinstance(source, Path) and not source.is_file():
        raise UnusableError("not a file" if source.exists() else "there is no such file")
    with _QUIET:
        try:
            return _read(source)
        except Image.DecompressionBombError:
            raise UnusableError(f"more than {MOST_PIXELS:,} pixels") from None
        except UnidentifiedImageError:
            raise UnusableError(_unidentified(source)) from None
        except PermissionError:
            raise UnusableError("no permission to read it") from None
        except _DAMAGED as error:
            raise UnusableError(f"damaged: {first_line(error)}") from None


def _opened(source: Source) -> IO[bytes]:
    return source.open("rb") if isinstance(source, Path) else BytesIO(source)


def _read(source: Source) -> Stored:
    # Pillow is given an open file, because it maps files that it opens itself, and confuses width and height there if
    # a TIFF file without compression is turned by 90 degrees.
    formats = [name for name in FORMATS if name in Image.OPEN]
    with _opened(source) as file, Image.open(file, formats=formats) as image:
        _require_bounded(image)
        lay = _orientation(image)
        image.load()
        _require_bounded(image)
        orientation = _orientation(image)
        return Stored(
            _plain(image),
            _white(image),
            inverted=image.mode in _WIDE and _tiff_field(image, _PHOTOMETRIC, 1) == 0,
            clear=_clear(image, source),
            profile=image.info.get("icc_profile"),
            orientation=orientation,
            lay=lay if orientation == UPRIGHT else orientation,
            more=_has_more(image),
        )


def _require_bounded(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise UnusableError(f"{image.width}x{image.height} pixels; at most {MOST_PIXELS:,} pixels are read")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; upright where there is none, or where the EXIF data are damaged."""
    try:
        found = int(image.getexif().get(_ORIENTATION, UPRIGHT))
    except _DAMAGED:
        return UPRIGHT
    return found if found in range(1, 9) else UPRIGHT


def _plain(image: Image.Image) -> Image.Image:
    """A copy of the pixels in one of the modes of `Stored`."""
    if image.mode in _WIDE or image.mode == "CMYK":
        return image.copy()
    return image.convert(_PLAIN.get(image.mode) or ("RGBA" if image.has_transparency_data else "RGB"))


def _white(image: Image.Image) -> int | None:
    if image.mode == "F":
        return 1
    if image.mode == "I":  # 16 bits in PPM; 32 bits, or 16 with a sign, in TIFF
        return 65535 if image.format == "PPM" else None
    return 2 ** _tiff_field(image, _BITS_PER_SAMPLE, 16) - 1 if image.mode in _WIDE else None


def _tiff_field(image: Image.Image, number: int, otherwise: int) -> int:
    """The first value of a field of a TIFF file."""
    value = getattr(image, "tag_v2", {}).get(number, otherwise)
    return int(value[0] if isinstance(value, tuple) else value)


def _clear(image: Image.Image, source: Source) -> tuple[int, ...] | None:
    """The value of transparent pixels, in the scale of the pixels that Pillow returns; None for palettes.

    In PNG, Pillow scales pixels of 1, 2, 4 and 16 bits to 8, but not this value.
    """
    clear = image.info.get("transparency")
    if image.mode not in ("1", "L", "RGB", "I;16") or not isinstance(clear, int | tuple):
        return None
    values = (clear,) if isinstance(clear, int) else clear
    if image.format != "PNG" or image.mode == "I;16":
        return values
    with _opened(source) as file:
        depth = file.read(25)[24]
    return tuple(value >> 8 if depth == 16 else round(value * 255 / (2**depth - 1)) for value in values)


def _has_more(image: Image.Image) -> bool:
    """Whether there are more frames or pages. Asked last, because it may read on in the file.

    What lies behind the first picture of an MPO file is a preview or a map of brightness, not a page.
    """
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except _DAMAGED:
        return True


def _unidentified(source: Source) -> str:
    """Why Pillow does not take a file, by its first bytes."""
    with _opened(source) as file:
        start = file.read(4)
    if not start:
        return "empty"
    if start in (b"II*\0", b"MM\0*"):
        return "TIFF with a kind of pixels that is not read, such as colours in floating point, or damaged"
    return f"not an image in one of the formats {', '.join(FORMATS)}, or damaged"
