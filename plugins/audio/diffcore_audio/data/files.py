"""Reads the samples of sound files, however long they are, and says why a file cannot be read."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy
import soundfile

from diffcore.errors import first_line
from diffcore.plugins.folders import UnusableError

SOUND_ENDINGS = frozenset(
    (
        *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
        *(".aiff", ".aif", ".aifc", ".au", ".snd", ".caf"),
    )
)
"""Files with these endings are read as sounds."""

_FORMATS = frozenset(("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF"))
"""The formats of these files, by their names in libsndfile, which goes by the content and not by the ending.

Its decoders of other formats are not used: that of SDS, for example, prints on the standard output.
"""

CONVERTIBLE = dict.fromkeys(
    (".m4a", ".mp4", ".aac", ".wma", ".amr", ".ape", ".wv", ".mpc", ".ac3", ".webm", ".mka", ".dsf", ".dff"),
    "convert them to WAV or FLAC, for example with ffmpeg",
)
"""Sounds in formats that libsndfile does not read, by ending, and what to do with them."""

MOST_VALUES = 2**25
"""The largest number of values, of all channels together, that are read from a file: 128 MiB as float32."""

_BLOCK = 2**20
"""Values that are read at once."""

_SHORTEST = 0.005
"""Seconds; a shorter file has no audible pitch or decay and is not used."""

_RATES = range(1000, 1_000_001)
"""Sampling rates in Hz that a file may have."""

_READING_ERRORS = (OSError, soundfile.SoundFileError, ValueError, TypeError, OverflowError, MemoryError, AssertionError)
"""What soundfile and the operating system raise for files that are missing, damaged or not sounds."""

_MISSING_FRAMES = 2304
"""A compressed file may have this many frames, two of MPEG's blocks, less than its header says."""

_LARGEST = 2.0**31
"""No value is larger: not even 32-bit integers that were stored as floats without scaling."""

_UNKNOWN_SIZE = 0x7FFF0000
"""Programs that write to a pipe do not know the size, and write a number that is at least this large."""

_SIZES = re.compile(r"^ *(data|SSND|BODY|Data Size|riff) *: *(\d+) *\(should be (\d+)\)", re.MULTILINE)
"""Lines of libsndfile's log that state a size in the header, and the size that is there.

`riff` in lower case is that of W64, where it is the size of the whole file. `RIFF` is not looked at, because some
programs count its own eight bytes.
"""

_OTHER_FRAMES = re.compile(r"Calculated frame count (\d+) does not match value from 'ds64' chunk of (\d+)")
"""The same for RF64, in frames."""


@dataclass(frozen=True)
class Sound:
    """The samples of a file, float32 `[C, L]`; its sampling rate in Hz; and whether the file goes on after them."""

    samples: numpy.ndarray
    rate: int
    cut: bool = False


def read(path: Path) -> Sound:
    """Read at most `MOST_VALUES` values of a file; raises `UnusableError` with the reason if it cannot be used."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnusableError("not a regular file")
        with soundfile.SoundFile(os.fsencode(path)) as file:
            if file.format not in _FORMATS:
                raise UnusableError(f"a sound in the format {file.format}, which is not read")
            if file.samplerate not in _RATES:
                raise UnusableError(f"a sampling rate of {file.samplerate} Hz")
            sound = Sound(_samples(file), file.samplerate, file.frames * file.channels > MOST_VALUES)
            if _truncated(path, file, sound):
                raise UnusableError("truncated")
    except FileNotFoundError:
        raise UnusableError("missing") from None
    except _READING_ERRORS as error:
        raise UnusableError(f"cannot be read: {_reason(error)}") from None
    if not numpy.isfinite(sound.samples).all():
        raise UnusableError("contains values that are not finite")
    if abs(sound.samples).max(initial=0) > _LARGEST:
        raise UnusableError("contains values that are too large for a sound")
    if sound.samples.shape[1] < _SHORTEST * sound.rate:
        raise UnusableError(f"shorter than {1000 * _SHORTEST:g} ms")
    return sound


def _samples(file: soundfile.SoundFile) -> numpy.ndarray:
    """The samples `[C, L]`, read in blocks, because the length that a header states may not be that of the sound."""
    blocks = []
    left = MOST_VALUES // file.channels
    while left > 0:
        block = file.read(min(left, max(1, _BLOCK // file.channels)), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block.T)
        left -= len(block)
    return numpy.concatenate(blocks, 1) if blocks else numpy.zeros((file.channels, 0), numpy.float32)


def _truncated(path: Path, file: soundfile.SoundFile, sound: Sound) -> bool:
    """Whether the file ends before its header says; libsndfile reads what there is without an error."""
    if not sound.cut and sound.samples.shape[1] < file.frames - _MISSING_FRAMES:
        return True
    if file.format == "OGG":
        return _last_page_is_missing(path)
    log = file.extra_info
    stated = [(int(size), int(there)) for _, size, there in _SIZES.findall(log)]
    stated += [(int(frames), int(there)) for there, frames in _OTHER_FRAMES.findall(log)]
    return any(there < size < _UNKNOWN_SIZE for size, there in stated) or "truncated" in log


def _last_page_is_missing(path: Path) -> bool:
    """Whether the last page of an Ogg file is cut off, or is not the end of its stream (RFC 3533, section 6)."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2**17))  # a page has at most 65,307 bytes
        end = file.read()
    page = end[max(0, end.rfind(b"OggS\0")) :]
    if len(page) < 27 or not page[5] & 4:
        return True
    segments = page[27 : 27 + page[26]]
    return len(page) < 27 + page[26] + sum(segments)


def _reason(error: BaseException) -> str:
    """The reason of libsndfile without the path, or that of the operating system."""
    if isinstance(error, soundfile.LibsndfileError):
        return error.error_string.strip().rstrip(".").removeprefix("Error : ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
