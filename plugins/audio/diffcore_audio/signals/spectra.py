"""Log-mel spectrograms for metrics and pictures. (Those of the codec are in `representations`.)"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import melscale_fbanks

from diffcore_audio.signals.waves import decibels, finite

MELS = 64
"""Number of mel bands."""
FLOOR = -80.0
"""The lowest level that pictures show, in dB relative to a full-scale sine."""
_WINDOW, _HOP = 0.032, 0.008
"""Length of a window, and time from one window to the next, in seconds."""
_CHUNK = 1 << 22
"""Number of waveform values that are transformed at once, which bounds the memory."""


def log_mel(waves: Tensor, rate: int, frames: int | None = None, floor: float = FLOOR) -> Tensor:
    """Log-mel spectrograms `[B, 64, frames]` of waveforms `[B, C, L]`, in dB, at least `floor`.

    Hann windows w of 32 ms every 8 ms, the first one centred on the first sample, with silence beyond the ends; powers
    4 |X|^2 / (n sum w^2) of transforms of length n, which sum to A^2 for a sine of amplitude A; triangular filters of
    height 1, evenly spaced in mel = 2595 log10(1 + f / 700) from 0 to rate / 2. A full-scale sine at the centre of a
    wide filter therefore has about 0 dB. Powers are averaged over the channels, and over time into at most `frames`
    frames. Waveforms that are not finite count as silence.
    """
    size = max(1, _CHUNK // waves[0].numel())
    return torch.cat([_log_mel(part, rate, frames, floor) for part in waves.split(size)])


def _log_mel(waves: Tensor, rate: int, frames: int | None, floor: float) -> Tensor:
    length, hop = max(2, round(_WINDOW * rate)), max(1, round(_HOP * rate))
    size = 1 << math.ceil(
        math.log2(2 * length)
    )  # at least twice the window, so that no filter at low frequencies is empty
    window = torch.hann_window(length, device=waves.device)
    batch, channels, _ = waves.shape
    spectra = torch.stft(
        finite(waves)[0].float().flatten(0, 1), size, hop, length, window, pad_mode="constant", return_complex=True
    )
    powers = 4 * spectra.abs().square() / (size * window.square().sum())
    powers = powers.unflatten(0, (batch, channels)).mean(1)
    mels = _mel_filters(rate, size).to(waves.device) @ powers
    if frames is not None and mels.shape[2] > frames:
        mels = functional.adaptive_avg_pool1d(mels, frames)
    return decibels(mels, floor)


@cache
def _mel_filters(rate: int, size: int) -> Tensor:
    """Triangular filters `[64, size / 2 + 1]`."""
    return melscale_fbanks(size // 2 + 1, 0.0, rate / 2, MELS, rate).T


def standardised(log_mels: Tensor, floor: float = FLOOR) -> Tensor:
    """Levels from `floor` to 0 dB, scaled to 0 to 1."""
    return log_mels / -floor + 1
