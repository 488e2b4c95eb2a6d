"""Latents of spectrograms."""

import math

import pytest
import torch

from diffcore.states.spaces import Euclidean
from diffcore_audio.autoencoder import fidelity


def test_the_distance_of_spectra_is_that_of_levels():
    """Noise of half the amplitude is 6 dB lower everywhere; what is silent in both has no distance."""
    noise = 0.3 * torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0))
    (metric,) = fidelity(None)(noise, noise / 2)
    assert metric.value == pytest.approx(20 * math.log10(2), abs=0.01)
    (metric,) = fidelity(None)(torch.zeros(1, 1, 8000), 1e-6 * noise[:1])
    assert metric.value == 0.0


def test_spectrograms_whose_bands_the_factor_does_not_divide_are_restored_in_shape():
    from diffcore.nn.options import GridAutoencoderOptions
    from diffcore_audio.autoencoder import autoencoder

    class Codec:
        joint = ()
        space = Euclidean((2, 129, 64))

    network = autoencoder(GridAutoencoderOptions(width=8), Codec)
    x = torch.randn(1, 2, 129, 64)
    assert network.encode(x).shape == (1, 4, 33, 16)
    assert network.decode(network.encode(x)).shape == x.shape
