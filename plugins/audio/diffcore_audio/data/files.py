"""Sound files of any rate, length and number of channels, as examples; and what is wrong with those that cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from diffcore.plugins.folders import UnusableError
from diffcore_audio.signals.waves import FULL_SCALE, SILENCE

SOUND_ENDINGS = frozenset(
    (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64", ".mp3")
)
"""Files with these endings are taken for sounds."""

_SILENCE = 10 ** (SILENCE / 20)
"""The amplitude of a peak that is as quiet as silence."""

_SHORTEST = 0.005
"""Seconds; what is shorter has no pitch and no decay."""

_CLIPPED = 1e-3
"""A sound with a larger share of its samples at full scale was cut off in recording."""

_FADE = 0.005
"""Seconds over which a sound fades out where it is cut."""

_STEP = 25
"""Hz; rates are taken as multiples of this."""


@dataclass(frozen=True)
class Shape:
    """What examples are to be."""

    rate: int
    samples: int
    channels: int
    trim: bool = False


@dataclass
class Findings:
    """Files that are not as they should be, with the reason where it differs."""

    unusable: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)


def load(files: Sequence[tuple[Path, int]], shape: Shape, findings: Findings) -> tuple[Tensor, Tensor]:
    """Waveforms int16 `[N, C, L]` and labels `[N]` of those files that can be used; adds the others to `findings`."""
    waveforms = torch.zeros(len(files), shape.channels, shape.samples, dtype=torch.int16)
    labels: list[int] = []
    for path, label in files:
        try:
            sound, rate = read(path)
        except UnusableError as reason:
            findings.unusable.append(f"{path} ({reason})")
            continue
        full = abs(sound) >= 1 - 1 / FULL_SCALE
        if full.any(0).mean() > _CLIPPED:
            findings.clipped.append(str(path))
        example = fit(sound, rate, shape)
        if example is None:
            findings.silent.append(str(path))
            continue
        waveforms[len(labels)] = example
        labels.append(label)
    return waveforms[: len(labels)], torch.tensor(labels, dtype=torch.int64)


def read(path: Path) -> tuple[numpy.ndarray, int]:
    """A file's samples, float32 `[C, L]`, and its rate. Raises `UnusableError`."""
    try:
        if _truncated(path):
            raise UnusableError("truncated")
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError, ValueError, MemoryError) as error:
        raise UnusableError("not there" if isinstance(error, FileNotFoundError) else "cannot be read") from None
    if not numpy.isfinite(sound).all():
        raise UnusableError("holds values that are not finite")
    if len(sound) < _SHORTEST * rate:
        raise UnusableError(f"shorter than {1000 * _SHORTEST:g} ms")
    return sound.T, rate


def fit(sound: numpy.ndarray, rate: int, shape: Shape) -> Tensor | None:
    """A sound `[C, L]` of any rate as an example, int16 `[channels, samples]`; None where it is below -60 dB.

    Channels are mixed or kept, the rate is changed, the silent beginning is cut off if asked, and the end is cut
    with a short fade, or filled up with silence. Only what would go beyond full scale changes in level.
    """
    waveform = torch.from_numpy(sound)
    # Of more than two channels, the first two are left and right in every common layout.
    waveform = waveform.mean(0, keepdim=True) if shape.channels == 1 else waveform[:2].expand(2, -1)
    waveform = resampled(waveform, rate, shape.rate)
    peak = waveform.abs().max()
    if peak < _SILENCE:
        return None
    if shape.trim:
        heard = (waveform.abs() >= _SILENCE * peak).any(0)
        waveform = waveform[:, int(heard.int().argmax()) :]
    if waveform.shape[1] > shape.samples:
        waveform = waveform[:, : shape.samples].clone()
        fade = max(1, min(round(_FADE * shape.rate), shape.samples))
        waveform[:, -fade:] *= torch.linspace(torch.pi / 2, 0, fade).sin()
    waveform = torch.nn.functional.pad(waveform, (0, shape.samples - waveform.shape[1]))
    waveform = waveform / waveform.abs().max().clamp(min=1)
    return (waveform * FULL_SCALE).round().clamp(max=FULL_SCALE - 1).to(torch.int16)


def resampled(waveform: Tensor, rate: int, wanted: int) -> Tensor:
    """`[C, L]` at another rate, by a windowed sinc.

    The sinc is tabulated for every pair of samples within the rates' common period, so rates are first rounded to
    multiples of 25 Hz, as all common ones are: at 8 kHz and more the pitch is off by 3 cents at most.
    """
    rate = max(_STEP, round(rate / _STEP) * _STEP)
    return waveform if rate == wanted else _resampler(rate, wanted)(waveform)


@cache
def _resampler(rate: int, wanted: int) -> Resample:
    return Resample(rate, wanted, lowpass_filter_width=16)


def _truncated(path: Path) -> bool:
    """Whether a RIFF file says that it is longer than it is; libsndfile gives what there is without a word.

    Programs that write to a pipe say the largest number, or nothing.
    """
    with path.open("rb") as file:
        start = file.read(8)
    said = int.from_bytes(start[4:], "little")
    return start[:4] == b"RIFF" and said < 0x7FFF0000 and path.stat().st_size < said + 7
