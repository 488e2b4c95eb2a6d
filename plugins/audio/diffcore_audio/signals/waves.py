"""Waveforms as numbers: how loud they are, and what of them fits into 16 bits.

Waveforms are float `[B, C, L]`, full scale from -1 to 1.
"""

import io

import soundfile
import torch
from torch import Tensor

FULL_SCALE = 32768
"""What 1 is in 16 bits."""
SILENCE = -60.0
"""dBFS; sounds whose RMS is lower are silent."""
_QUIETEST = -120.0
"""dBFS; what is quieter, digital silence too, is said to be of this."""


def finite(waves: Tensor) -> tuple[Tensor, Tensor]:
    """Waveforms with silence in place of those that have infinite or undefined values; which these were, `[B]`."""
    broken = ~waves.flatten(1).isfinite().all(1)
    return waves.masked_fill(broken[:, None, None], 0.0), broken


def peaks(waves: Tensor) -> Tensor:
    """max |x| of each waveform over its channels, `[B]`."""
    return waves.abs().flatten(1).amax(1)


def within_full_scale(waves: Tensor) -> Tensor:
    """Finite waveforms; those that go beyond full scale are divided by their peak as a whole, so nothing is clipped."""
    return waves / peaks(waves).clamp(min=1.0)[:, None, None]


def rms_db(waves: Tensor) -> Tensor:
    """10 log10(mean x^2) of each finite waveform, `[B]` float64, dB relative to full scale; -120 at least.

    The mean is over time and channels. A sine of full scale has -3.01 dBFS.
    """
    return decibels(waves.double().square().flatten(1).mean(1), _QUIETEST)


def decibels(power: Tensor, floor: float) -> Tensor:
    """10 log10(power), not below `floor` dB."""
    return 10 * power.clamp(min=10 ** (floor / 10)).log10()


def pcm(waves: Tensor) -> Tensor:
    """Samples of 16 bits, int16: round(32768 x) of waveforms within full scale; 1 becomes 32767, the largest there is.

    A sample that is not finite is written as silence.
    """
    safe = within_full_scale(finite(waves)[0].cpu().float())
    return (safe * FULL_SCALE).round().clamp(max=FULL_SCALE - 1).to(torch.int16)


def mono(waves: Tensor) -> Tensor:
    """The mean of the channels, `[B, 1, L]`."""
    return waves.mean(1, keepdim=True)


def wav(samples: Tensor, rate: int) -> bytes:
    """A WAV file of int16 samples `[C, L]`."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T.numpy(), rate, subtype="PCM_16", format="WAV")
    return buffer.getvalue()
