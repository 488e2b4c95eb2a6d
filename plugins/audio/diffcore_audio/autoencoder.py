"""The autoencoder of spectrograms, and how similar its reconstructions sound to the originals."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffcore.nn.grid_autoencoder import GridAutoencoder
from diffcore.nn.options import GridAutoencoderOptions
from diffcore.plugins.output import Metric
from diffcore_audio.codec import SoundCodec

_FFT, _HOP, _FLOOR = 512, 128, 1e-4


def autoencoder(options: GridAutoencoderOptions, codec: SoundCodec) -> GridAutoencoder:
    """A `GridAutoencoder` of spectrograms. Neither mirrored nor turned ones are sounds, so it has no transforms."""
    rows, bands, columns = codec.space.shape
    return GridAutoencoder(rows, (bands, columns), **options.model_dump())


def fidelity(codec: SoundCodec) -> Callable[[Tensor, Tensor], list[Metric]]:
    """A function of waveforms and their reconstructions, `[n, C, L]`, to the distance of their spectra.

    Both come from the same vocoder, if spectrograms lose the phases, so only the autoencoder is measured.
    """
    return _spectral_distance


def _spectral_distance(originals: Tensor, found: Tensor) -> list[Metric]:
    """The mean |20 log10(a / b)| of the magnitudes of all times and frequencies, of which none is below -80 dB."""
    first, second = (20 * _magnitudes(waves).clamp(min=_FLOOR).log10() for waves in (originals, found))
    return [Metric("spectral_distance", (first - second).abs().mean().item(), "dB, mean difference of spectra")]


def _magnitudes(waves: Tensor) -> Tensor:
    """The magnitudes of the short-time Fourier transform, relative to a sine of full scale."""
    window = torch.hann_window(_FFT)
    short = torch.nn.functional.pad(waves.flatten(0, 1), (0, max(0, _FFT - waves.shape[-1])))
    return torch.stft(short, _FFT, _HOP, window=window, return_complex=True).abs() / (window.sum() / 2)
