"""Reads the samples of sound files, however long they are, and says why a file cannot be read."""

import itertools
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
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

AT_LEAST = 30.0
"""Seconds that are read of a file in any case, so that the offset and the peak of a sound are those of the whole."""

AUDIBLE = 1e-3
"""A file is read until it has a sample of this magnitude, -60 dB of full scale, as sounds may begin with silence."""

_MARGIN = 0.05
"""Seconds that a piece of a file has before and after it, for the filter that resamples it."""

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
    """The samples of a file, float32 `[C, L]`, and its sampling rate in Hz.

    * `cut`: whether the file goes on after the samples.
    * `frames`: the length of the file, as far as its header says.
    * `lead`: how many samples at the beginning are those of the piece before, for filters.
    """

    samples: numpy.ndarray
    rate: int
    cut: bool = False
    frames: int = 0
    lead: int = 0


def read(path: Path, seconds: float | None = None) -> Sound:
    """Read a sound; raises `UnusableError` with the reason if it cannot be used.

    At most `MOST_VALUES` values are read. With `seconds`, reading ends when there are so many seconds after the first
    audible sample, but not before `AT_LEAST` seconds.
    """
    with _opened(path) as file:
        samples, ended = _samples(file, seconds)
        sound = Sound(samples, file.samplerate, not ended and samples.shape[1] < file.frames, file.frames)
        if _truncated(path, file, sound):
            raise UnusableError("truncated")
    _check_values(sound.samples)
    if sound.samples.shape[1] < _SHORTEST * sound.rate:
        raise UnusableError(f"shorter than {1000 * _SHORTEST:g} ms")
    return sound


def pieces(path: Path, samples: int, rate: int) -> Iterator[Sound]:
    """The sound of a file in consecutive pieces, each as long as `samples` at `rate` Hz, in bounded memory.

    So that pieces can be resampled, each has a little more than `_MARGIN` seconds of the sound before it (`lead`) and
    after it, where there are such. The last piece may be shorter. Raises `UnusableError` with the reason if the file
    cannot be used.
    """
    with _opened(path) as file:
        unit = file.samplerate // math.gcd(file.samplerate, rate)  # a whole number of samples at `rate`
        margin = math.ceil(_MARGIN * file.samplerate / unit) * unit
        held, first, ended = numpy.zeros((file.channels, 0), numpy.float32), 0, False
        for number in itertools.count():
            start, end = (round(n * samples * file.samplerate / rate) for n in (number, number + 1))
            while not ended and first + held.shape[1] < end + margin:
                block = file.read(max(1, _BLOCK // file.channels), dtype="float32", always_2d=True)
                ended = not len(block)
                held = numpy.concatenate([held, block.T], 1)
            begin = max(start - margin, 0)
            held, first = held[:, begin - first :], begin
            if first + held.shape[1] <= start:
                break
            part = held[:, : end + margin - begin]
            _check_values(part)
            yield Sound(part, file.samplerate, first + held.shape[1] > end, file.frames, start - begin)
        if first + held.shape[1] < file.frames - _MISSING_FRAMES or _is_cut_off(path, file):
            raise UnusableError("truncated")


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """A sound file that is open for reading. What fails while it is open raises `UnusableError` with the reason."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnusableError("not a regular file")
        with soundfile.SoundFile(os.fsencode(path)) as file:
            if file.format not in _FORMATS:
                raise UnusableError(f"a sound in the format {file.format}, which is not read")
            if file.samplerate not in _RATES:
                raise UnusableError(f"a sampling rate of {file.samplerate} Hz")
            yield file
    except FileNotFoundError:
        raise UnusableError("missing") from None
    except _READING_ERRORS as error:
        raise UnusableError(f"cannot be read: {_reason(error)}") from None


def _check_values(samples: numpy.ndarray) -> None:
    if not numpy.isfinite(samples).all():
        raise UnusableError("contains values that are not finite")
    if abs(samples).max(initial=0) > _LARGEST:
        raise UnusableError("contains values that are too large for a sound")


def _samples(file: soundfile.SoundFile, seconds: float | None) -> tuple[numpy.ndarray, bool]:
    """The samples `[C, L]`, and whether the file ends there.

    They are read in blocks, because the length that a header states may not be that of the sound.
    """
    blocks: list[numpy.ndarray] = []
    done, most, onset = 0, MOST_VALUES // file.channels, None
    while done < most:
        if onset is not None and seconds is not None and done >= max(AT_LEAST, onset + seconds) * file.samplerate:
            break
        block = file.read(min(most - done, max(1, _BLOCK // file.channels)), dtype="float32", always_2d=True)
        if not len(block):
            break
        audible = (abs(block) >= AUDIBLE).any(1)
        if onset is None and audible.any():
            onset = (done + int(audible.argmax())) / file.samplerate
        blocks.append(block.T)
        done += len(block)
    found = numpy.concatenate(blocks, 1) if blocks else numpy.zeros((file.channels, 0), numpy.float32)
    return found, not blocks or not len(block)


def _truncated(path: Path, file: soundfile.SoundFile, sound: Sound) -> bool:
    """Whether the file ends before its header says; libsndfile reads what there is without an error."""
    if not sound.cut and sound.samples.shape[1] < file.frames - _MISSING_FRAMES:
        return True
    return _is_cut_off(path, file)


def _is_cut_off(path: Path, file: soundfile.SoundFile) -> bool:
    """Whether the structure of the file shows that its end is missing."""
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
