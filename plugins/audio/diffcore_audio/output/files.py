"""Sound files: how waveforms are stored in WAV, FLAC and OGG."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import soundfile
from torch import Tensor

from diffcore.errors import UserError
from diffcore_audio.options import WritingOptions

ENDINGS = (".wav", ".flac", ".ogg")
"""Endings of sound files that are written."""

_HIGHEST_RATES = {".ogg": 200_000, ".flac": 655_350}
"""The highest sampling rates, in Hz, of Vorbis and of FLAC."""

_BLOCK = 2**16
"""Frames that are given to libsndfile at once, whose encoder of Vorbis needs much of the stack for long ones."""


def stored(wave: Tensor, bits: str, dither: bool = False) -> numpy.ndarray:
    """A waveform `[C, L]` within full scale as the frames `[L, C]` of a file: int16, int32 or float32.

    Of b bits, the value is round(2^(b - 1) x), where 1 becomes the largest one; 24 bits are the upper ones of int32.
    With `dither`, the difference of two uniform random numbers from 0 to 1 is added before rounding, so the error
    does not depend on the sound (Lipshitz et al. 1992). The random numbers follow from the waveform alone.
    """
    frames = wave.T.contiguous().numpy()
    if bits == "float":
        return frames.astype(numpy.float32)
    full = 2 ** (int(bits) - 1)
    scaled = frames.astype(numpy.float64) * full
    if dither:
        generator = numpy.random.default_rng(zlib.crc32(frames.tobytes()))
        scaled += generator.random(scaled.shape) - generator.random(scaled.shape)
    values = scaled.round().clip(-full, full - 1).astype(numpy.int32)
    return values.astype(numpy.int16) if bits == "16" else values << 8


@contextmanager
def opened(path: Path, rate: int, channels: int, options: WritingOptions) -> Iterator[soundfile.SoundFile]:
    """A new file in the format of its ending. Raises `UserError` if the format cannot have this rate or these bits.

    Higher rates than that of Vorbis are refused here, because libsndfile ends the process with a segmentation fault.
    """
    ending = path.suffix.lower()
    subtype = "VORBIS" if ending == ".ogg" else "FLOAT" if options.bits == "float" else f"PCM_{options.bits}"
    name = ending.removeprefix(".").upper()
    if ending != ".wav" and options.bits == "float":
        raise UserError(f"{name} files cannot hold floats: choose `write.bits` 16 or 24, or a .wav file")
    if rate > _HIGHEST_RATES.get(ending, rate):
        raise UserError(f"{name} files have at most {_HIGHEST_RATES[ending]:,} Hz, and the data {rate:,}: write WAV")
    with soundfile.SoundFile(path, "w", rate, channels, subtype, format=name) as file:
        yield file


def append(file: soundfile.SoundFile, wave: Tensor, options: WritingOptions) -> None:
    """Write a waveform `[C, L]` within full scale at the end of a file."""
    lossy = file.subtype == "VORBIS"
    frames = stored(wave, "float" if lossy else options.bits, options.dither)
    for start in range(0, len(frames), _BLOCK):
        file.write(frames[start : start + _BLOCK])
