"""Makes examples of one rate, length and number of channels from sounds, and says what was changed."""

from dataclasses import dataclass

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from diffcore_audio.data.files import Sound
from diffcore_audio.signals.resampling import resampled
from diffcore_audio.signals.waves import FADE, FULL_SCALE, SILENCE, faded

_SILENCE = 10 ** (SILENCE / 20)
"""The amplitude that counts as silence, relative to full scale or to the peak of a sound."""

_LOUDEST = 0.02
"""Duration in seconds of the loudest part of an example, by which silence is judged."""

_SMALL_OFFSET = 0.03
"""An offset below this fraction of the standard deviation of a sound is kept."""

_CANCELLED = 1e-3
"""Channels cancel each other if the power of their mean is a smaller fraction of their mean power."""

_CLIPPED, _CLIPPED_RUN = 1e-3, 3
"""A sound was clipped when it was recorded if a larger fraction of its values lies at full scale, in runs of at least
so many. A tone that only touches full scale has shorter runs."""


class SilentError(Exception):
    """The part of a sound that would be used is silent. The message says so."""


@dataclass(frozen=True)
class Format:
    """The format of examples: sampling rate in Hz, length in samples, channels, and whether to cut initial silence."""

    rate: int
    samples: int
    channels: int
    trim: bool = False

    @property
    def seconds(self) -> str:
        """The length of an example, in words."""
        return f"{self.samples / self.rate:.3g} s"


def fit(sound: Sound, target: Format) -> tuple[Tensor, list[str]]:
    """A sound as an example, int16 `[channels, samples]`, and what was changed.

    In this order: a constant offset is removed; the channels are mixed or kept; with `target.trim`, the beginning is
    cut where it is more than 60 dB below the peak; the sound is resampled; the end is cut with a fade of 5 ms, or
    extended with silence. The level changes only if the sound would exceed full scale.

    Raises `SilentError` if the example is silent: the RMS of its loudest 20 ms, without their mean, is below -60 dB of
    full scale.
    """
    changes: list[str] = []
    waveform, more = with_channels(_centred(sound.samples, changes), target.channels)
    changes += more
    start = _onset(waveform) if target.trim else 0
    if start > FADE * sound.rate:
        changes.append("silence at the beginning was cut")
    # One second more than is needed, so that the end of the part does not matter.
    part = waveform[:, start : start + (target.samples * sound.rate) // target.rate + sound.rate]
    if sound.rate != target.rate:
        changes.append(f"resampled from {sound.rate} Hz")
    example, more = _of_length(resampled(part, sound.rate, target.rate), target)
    changes += more
    if _loudest(example, target.rate) < _SILENCE:
        raise SilentError(_why_silent(waveform, sound.rate, target))
    return _stored(example, changes), changes


def fit_piece(sound: Sound, target: Format) -> tuple[Tensor | None, list[str]]:
    """A piece of a sound as an example, like `fit`, but without a fade where the sound goes on, and nothing is trimmed.

    None in place of an example if it is silent, or if the sound ends in its first half.
    """
    changes: list[str] = []
    waveform, more = with_channels(_centred(sound.samples, changes), target.channels)
    changes += more
    if sound.rate != target.rate:
        changes.append(f"resampled from {sound.rate} Hz")
    whole = resampled(waveform, sound.rate, target.rate)
    part = whole[:, round(sound.lead * target.rate / sound.rate) :][:, : target.samples]
    missing = target.samples - part.shape[1]
    example = functional.pad(part, (0, missing))
    if 2 * missing > target.samples or _loudest(example, target.rate) < _SILENCE:
        return None, changes
    return _stored(example, changes), changes


def _stored(example: Tensor, changes: list[str]) -> Tensor:
    """The example as int16, scaled down if it exceeds full scale, of which a note is added to `changes`."""
    if (peak := example.abs().max()) > 1:
        changes.append("scaled down as a whole, because they exceed full scale")
        example = example / peak
    return (example * FULL_SCALE).round().clamp(max=FULL_SCALE - 1).to(torch.int16)


def _centred(samples: numpy.ndarray, changes: list[str]) -> Tensor:
    """The sound `[C, L]` without a constant offset, of which a note is added to `changes`.

    A short sound may have a mean, and an asymmetric one a median, that differs from zero; only an offset moves both.
    So the offset is the one that is nearer to zero if both have the same sign, and zero otherwise. Offsets are kept if
    they are below -60 dB of full scale, or so small beside the sound that noise would have them by chance.
    """
    mean, median = samples.mean(1, dtype=numpy.float64), numpy.median(samples, 1)
    offset = numpy.where(mean * median > 0, numpy.sign(mean) * numpy.minimum(abs(mean), abs(median)), 0)
    offset[abs(offset) < numpy.maximum(_SILENCE, _SMALL_OFFSET * samples.std(1))] = 0
    waveform = torch.from_numpy(samples)
    if not offset.any():
        return waveform
    changes.append("a constant offset was removed")
    return waveform - torch.from_numpy(offset).to(waveform)[:, None]


def with_channels(waveform: Tensor, channels: int) -> tuple[Tensor, list[str]]:
    """The waveform with this number of channels, and what was changed."""
    found = len(waveform)
    if found == channels:
        return waveform, []
    if channels == 2:
        # In every common layout of more than two channels, the first two are left and right.
        changed = "one channel, used for both sides" if found == 1 else f"the first two of {found} channels were kept"
        return waveform[:2].expand(2, -1), [changed]
    mixed = waveform.mean(0, keepdim=True)
    powers = waveform.square().mean(1, dtype=torch.float64)
    if mixed.square().mean(dtype=torch.float64) < _CANCELLED * powers.mean():
        loudest = int(powers.argmax())
        changed = f"the {found} channels cancel each other when they are mixed, so only one was used"
        return waveform[loudest : loudest + 1], [changed]
    return mixed, [f"mixed from {found} channels to one"]


def _onset(waveform: Tensor) -> int:
    """The first sample at which a channel is at most 60 dB below the peak."""
    loud = waveform.abs() >= _SILENCE * waveform.abs().max()
    return int(loud.any(0).int().argmax())


def _of_length(waveform: Tensor, target: Format) -> tuple[Tensor, list[str]]:
    """The waveform cut with a fade, or extended with silence, and what was changed."""
    length = waveform.shape[1]
    if length > target.samples:
        return faded(waveform[:, : target.samples], FADE, target.rate), [f"cut to {target.seconds}"]
    changed = [f"extended with silence to {target.seconds}"] if length < target.samples else []
    return functional.pad(waveform, (0, target.samples - length)), changed


def _loudest(waveform: Tensor, rate: int) -> float:
    """The RMS of the loudest 20 ms of `[C, L]`, averaged over the channels, without their mean."""
    frame = max(1, min(round(_LOUDEST * rate), waveform.shape[1]))
    frames = waveform.double().unfold(1, frame, max(1, frame // 2))
    return frames.var(2, correction=0).mean(0).max().sqrt().item()


def _why_silent(waveform: Tensor, rate: int, target: Format) -> str:
    """Whether the whole sound is silent, or only the part of it that would be used."""
    if _loudest(waveform, rate) < _SILENCE:
        return f"silent (below {SILENCE:g} dB)"
    return f"silent (below {SILENCE:g} dB) in the {target.seconds} that would be used, and louder later"


def clipped(samples: numpy.ndarray) -> bool:
    """Whether more than 0.1 % of the values `[C, L]` lie in runs at full scale.

    A sound that exceeds full scale, as floats can, was not clipped there.
    """
    magnitudes = abs(samples)
    if magnitudes.max() > 1:
        return False
    full = magnitudes >= 1 - 1 / FULL_SCALE
    runs = full[:, _CLIPPED_RUN - 1 :].copy()
    for shift in range(_CLIPPED_RUN - 1):
        runs &= full[:, shift : full.shape[1] - _CLIPPED_RUN + 1 + shift]
    return bool(runs.any(0).mean() > _CLIPPED)
