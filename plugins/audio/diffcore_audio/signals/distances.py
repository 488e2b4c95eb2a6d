"""How different two sounds are, by their spectra."""

from collections.abc import Sequence

import torch
from torch import Tensor

_FLOOR = 1e-4
"""Magnitudes below -80 dB of those of a full-scale sine count as -80 dB."""

_RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))
"""Length of the transform, hop and length of the window, in samples (Yamamoto et al. 2020, table 1)."""


def log_spectral_distance(first: Tensor, second: Tensor) -> float:
    """The mean of |20 log10(a / b)|, in dB, over all times and frequencies of waveforms `[n, C, L]`.

    a and b are the magnitudes of Fourier transforms with Hann windows of 512 samples every 128 samples, at least -80 dB
    relative to a full-scale sine.
    """
    levels, others = (20 * magnitudes(waves, 512, 128, 512).clamp(min=_FLOOR).log10() for waves in (first, second))
    return (levels - others).abs().mean().item()


def stft_distance(
    originals: Tensor, found: Tensor, resolutions: Sequence[tuple[int, int, int]] = _RESOLUTIONS
) -> float:
    """The multi-resolution STFT loss of waveforms `[n, C, L]` (Yamamoto et al. 2020, equations 3 to 6).

    It is the mean over three resolutions of |S - S'| / |S| + mean |ln S - ln S'|, where S and S' are the magnitudes of
    the originals and of what was found, and |.| is the Frobenius norm over all sounds. In logarithms, magnitudes are at
    least -80 dB relative to a full-scale sine.
    """
    losses = []
    for size, hop, length in resolutions:
        true, other = (magnitudes(waves, size, hop, length) for waves in (originals, found))
        convergence = (true - other).norm() / true.norm().clamp(min=1e-12)
        logarithms, others = (values.clamp(min=_FLOOR).log() for values in (true, other))
        losses.append((convergence + (logarithms - others).abs().mean()).item())
    return sum(losses) / len(losses)


def magnitudes(waves: Tensor, size: int, hop: int, length: int) -> Tensor:
    """The magnitudes of the short-time Fourier transform of `[n, C, L]`, relative to those of a full-scale sine."""
    window = torch.hann_window(length)
    flat = torch.nn.functional.pad(waves.flatten(0, 1), (0, max(0, size - waves.shape[-1])))
    return torch.stft(flat, size, hop, length, window, return_complex=True).abs() / (window.sum() / 2)
