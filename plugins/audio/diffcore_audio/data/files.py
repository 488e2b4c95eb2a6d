"""Reads sound files of any rate, length and number of channels as examples, and collects those that cannot be used."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from diffcore.plugins.folders import UnusableError
from diffcore.plugins.ledger import Account
from diffcore_audio.signals.waves import FULL_SCALE, SILENCE

SOUND_ENDINGS = frozenset(
    (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64", ".mp3")
)
"""Files with these endings are read as sounds."""

_SILENCE = 10 ** (SILENCE / 20)
"""A sound whose peak is below this amplitude is silent."""

SILENT = "silent: their peak is below -60 dB"
"""Why silent sounds are passed over."""

_SHORTEST = 0.005
"""Seconds; a shorter file has no audible pitch or decay and is not used."""

_CLIPPED = 1e-3
"""A sound with a larger fraction of its values at full scale was clipped when it was recorded."""

_FADE = 0.005
"""Duration in seconds of the fade at the end of a sound that is cut."""

_STEP = 25
"""Sampling rates are rounded to multiples of this, in Hz."""


@dataclass(frozen=True)
class Format:
    """The format of examples: sampling rate in Hz, length in samples, channels, and whether to cut initial silence."""

    rate: int
    samples: int
    channels: int
    trim: bool = False


def load(files: Sequence[tuple[Path, int]], target: Format, account: Account) -> tuple[Tensor, Tensor]:
    """Waveforms, int16 `[N, C, L]`, and labels `[N]` of the files that can be used; the account gets the others."""
    waveforms = torch.zeros(len(files), target.channels, target.samples, dtype=torch.int16)
    labels: list[int] = []
    for path, label in files:
        try:
            sound, rate = read(path)
        except UnusableError as reason:
            account.refuse(path, str(reason))
            continue
        clipped = (abs(sound) >= 1 - 1 / FULL_SCALE).any(0).mean() > _CLIPPED
        example = fit(sound, rate, target)
        if example is None:
            account.pass_over(path, SILENT)
            continue
        if clipped:
            account.note(path, "clipped: more than 0.1 % of their values are at full scale")
        if rate != target.rate:
            account.change(path, f"resampled to {target.rate} Hz")
        waveforms[len(labels)] = example
        labels.append(label)
    return waveforms[: len(labels)], torch.tensor(labels, dtype=torch.int64)


def read(path: Path) -> tuple[numpy.ndarray, int]:
    """The samples of a file, float32 `[C, L]`, and its sampling rate; raises `UnusableError` with the reason."""
    try:
        if _truncated(path):
            raise UnusableError("truncated")
        sound, rate = soundfile.read(os.fsencode(path), dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError, ValueError, MemoryError) as error:
        raise UnusableError("missing" if isinstance(error, FileNotFoundError) else "cannot be read") from None
    if not numpy.isfinite(sound).all():
        raise UnusableError("contains values that are not finite")
    if len(sound) < _SHORTEST * rate:
        raise UnusableError(f"shorter than {1000 * _SHORTEST:g} ms")
    return sound.T, rate


def fit(sound: numpy.ndarray, rate: int, target: Format) -> Tensor | None:
    """A sound `[C, L]` of any rate as an example, int16 `[channels, samples]`; None if its peak is below -60 dB.

    The channels are mixed or kept and the sound is resampled. With `target.trim`, the beginning is cut where it is more
    than 60 dB below the peak. The end is cut with a fade of 5 ms, or padded with silence. The level changes only if
    the sound would exceed full scale.
    """
    waveform = torch.from_numpy(sound)
    # In every common layout of more than two channels, the first two are left and right.
    waveform = waveform.mean(0, keepdim=True) if target.channels == 1 else waveform[:2].expand(2, -1)
    waveform = resampled(waveform, rate, target.rate)
    peak = waveform.abs().max()
    if peak < _SILENCE:
        return None
    if target.trim:
        audible = (waveform.abs() >= _SILENCE * peak).any(0)
        waveform = waveform[:, int(audible.int().argmax()) :]
    if waveform.shape[1] > target.samples:
        waveform = waveform[:, : target.samples].clone()
        fade = max(1, min(round(_FADE * target.rate), target.samples))
        waveform[:, -fade:] *= torch.linspace(torch.pi / 2, 0, fade).sin()
    waveform = torch.nn.functional.pad(waveform, (0, target.samples - waveform.shape[1]))
    waveform = waveform / waveform.abs().max().clamp(min=1)
    return (waveform * FULL_SCALE).round().clamp(max=FULL_SCALE - 1).to(torch.int16)


def resampled(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """Resample `[C, L]` from `rate` to `new_rate`, in Hz, with a windowed sinc.

    The sinc is tabulated for every pair of samples within the common period of both rates. To keep that table small,
    `rate` is first rounded to a multiple of 25 Hz, which all common rates are; from 8 kHz on, this changes the pitch by
    3 cents at most.
    """
    rate = max(_STEP, round(rate / _STEP) * _STEP)
    return waveform if rate == new_rate else _resampler(rate, new_rate)(waveform)


@cache
def _resampler(rate: int, new_rate: int) -> Resample:
    return Resample(rate, new_rate, lowpass_filter_width=16)


def _truncated(path: Path) -> bool:
    """Whether a RIFF file is shorter than the size in its header; libsndfile would read what there is without an error.

    Programs that write to a pipe do not know the size and write the largest number, or zero; these files are complete.
    """
    with path.open("rb") as file:
        start = file.read(8)
    size = int.from_bytes(start[4:], "little")
    return start[:4] == b"RIFF" and size < 0x7FFF0000 and path.stat().st_size < size + 7
