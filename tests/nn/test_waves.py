"""Fourier features of the state, in networks on grids."""

import math

import numpy as np
import pytest
import torch

from diffcore.nn.blocks import with_waves
from diffcore.nn.dit import DiT
from diffcore.nn.unet import UNet
from tests.nn.test_sets import awake


def test_waves_lie_behind_the_channels_and_double_in_frequency():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    values = x.numpy()
    waves = [wave(2**k * values) for k in range(3) for wave in (np.sin, np.cos)]
    expected = np.concatenate([values, *waves], axis=1)
    np.testing.assert_allclose(with_waves(x, 3).numpy(), expected, atol=1e-12)
    assert with_waves(x, 0) is x


NETWORKS = {
    "unet": lambda octaves: UNet(2, width=8, patch=2, octaves=octaves),
    "dit": lambda octaves: DiT(2, (8, 8), patch=2, width=12, depth=1, heads=2, octaves=octaves),
}


@pytest.mark.parametrize("octaves", [1, 3])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_network_that_sees_waves_alone_is_periodic(build, octaves):
    """Without the weights of the state itself, x and x + 2 pi look the same; x and x + pi do not."""
    network = awake(build(octaves)).double()
    first = network.input if isinstance(network, UNet) else network.embed
    plain = 2 * 2**2  # the channels of patches
    with torch.no_grad():
        first.weight[:, :plain] = 0  # the entries of patches come channel by channel, those of the state first
        if isinstance(network, UNet):
            for gains in (network.direct.gains, network.direct.coarse_gains):
                gains.weight.zero_()
                gains.bias.zero_()
        x, c = torch.randn(3, 2, 8, 8).double(), torch.randn(3, network.width).double()
        torch.testing.assert_close(network(x + 2 * math.pi, c), network(x, c), rtol=0, atol=1e-9)
        assert (network(x + math.pi, c) - network(x, c)).abs().max() > 1e-3
        first.weight[:, :plain].normal_()
        assert (network(x + 2 * math.pi, c) - network(x, c)).abs().max() > 1e-3
