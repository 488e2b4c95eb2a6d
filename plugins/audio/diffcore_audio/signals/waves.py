"""Functions of waveforms: their loudness, and their conversion to 16 bits.

Waveforms are floats `[B, C, L]` with full scale at -1 and 1.
"""

import io
from typing import TYPE_CHECKING

import soundfile
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tensordict import TensorDict

FULL_SCALE = 32768
"""The 16-bit value of 1."""
SILENCE = -60.0
"""In dBFS (dB relative to full scale): sounds with a lower RMS are silent."""
FADE = 0.005
"""Duration in seconds of the fade at the end of a sound that is cut."""
_QUIETEST = -120.0
"""In dBFS: the smallest RMS level that is returned, also for digital silence."""


def waves_of(samples: "Tensor | TensorDict") -> Tensor:
    """The waveforms of decoded samples, which have an envelope beside it where states are joint."""
    return samples if isinstance(samples, Tensor) else samples["waveform"]


def envelopes_of(samples: "Tensor | TensorDict") -> Tensor | None:
    """The loudness of decoded samples in dB, `[B, K]`; None where states are not joint."""
    return None if isinstance(samples, Tensor) else samples["envelope"]


def finite(waves: Tensor) -> tuple[Tensor, Tensor]:
    """The waveforms, with those that contain infinite or NaN values replaced by silence; and a mask of these, `[B]`."""
    broken = ~waves.flatten(1).isfinite().all(1)
    return waves.masked_fill(broken[:, None, None], 0.0), broken


def peaks(waves: Tensor) -> Tensor:
    """max |x| of each waveform over time and channels, `[B]`."""
    return waves.abs().flatten(1).amax(1)


def within_full_scale(waves: Tensor) -> Tensor:
    """Finite waveforms with those that exceed full scale divided by their peak, so that nothing is clipped."""
    return waves / peaks(waves).clamp(min=1.0)[:, None, None]


def rms_db(waves: Tensor) -> Tensor:
    """10 log10(mean x^2) of each finite waveform in dBFS, at least -120: float64 `[B]`.

    The mean is over time and channels. A full-scale sine has -3.01 dBFS.
    """
    return decibels(waves.double().square().flatten(1).mean(1), _QUIETEST)


def decibels(power: Tensor, floor: float) -> Tensor:
    """10 log10(power), at least `floor` dB."""
    return 10 * power.clamp(min=10 ** (floor / 10)).log10()


def pcm(waves: Tensor) -> Tensor:
    """The waveforms as int16: round(32768 x), where 1 becomes 32767, the largest int16.

    Waveforms that exceed full scale are scaled down first, and those that are not finite become silence.
    """
    safe = within_full_scale(finite(waves)[0].cpu().float())
    return (safe * FULL_SCALE).round().clamp(max=FULL_SCALE - 1).to(torch.int16)


def floats(waves: Tensor) -> Tensor:
    """int16 waveforms as floats in [-1, 1], with full scale at 1."""
    return waves.float() / FULL_SCALE


def faded(waves: Tensor, seconds: float, rate: int) -> Tensor:
    """Waveforms `[..., L]` whose last `seconds` are multiplied by the sine of an angle that falls from pi / 2 to 0."""
    frames = min(round(seconds * rate), waves.shape[-1])
    if not frames:
        return waves
    ramp = torch.linspace(torch.pi / 2, 0, frames, dtype=waves.dtype).sin()
    return torch.cat([waves[..., :-frames], waves[..., -frames:] * ramp], -1)


def mono(waves: Tensor) -> Tensor:
    """The mean of the channels, `[B, 1, L]`."""
    return waves.mean(1, keepdim=True)


def wav(samples: Tensor, rate: int) -> bytes:
    """The content of a WAV file with the int16 samples `[C, L]`."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T.numpy(), rate, subtype="PCM_16", format="WAV")
    return buffer.getvalue()
