"""The short-time Fourier transform of the codecs."""

import torch
from torch import Tensor


def stft(waveform: Tensor, fft: int, hop: int) -> Tensor:
    """The centred transform of `[B, C, L]`, with reflection at the ends: complex `[B, C, fft / 2 + 1, columns]`."""
    window = torch.hann_window(fft, dtype=waveform.dtype, device=waveform.device)
    flat = waveform.flatten(0, 1)
    return torch.stft(flat, fft, hop, window=window, return_complex=True).unflatten(0, waveform.shape[:2])
