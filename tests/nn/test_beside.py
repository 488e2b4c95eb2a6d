"""Channels beside the state are added to the first layer of every network, as the channels of the state are."""

import pytest
import torch

from diffcore.nn.beside import BesideState
from diffcore.nn.dit import DiT
from diffcore.nn.sets import LatentSet, SetTransformer
from diffcore.nn.unet import UNet

NETWORKS = {
    "unet": (lambda channels, beside: UNet(channels, 8, patch=2, like_state=beside), "input", (8, 8)),
    "dit": (lambda channels, beside: DiT(channels, (8, 8), 2, 8, 1, 2, like_state=beside), "embed", (8, 8)),
    "set": (lambda channels, beside: SetTransformer(channels, 8, 1, 2, octaves=0, like_state=beside), "embed", None),
    "latent": (lambda channels, beside: LatentSet(channels, 8, 4, 8, 1, octaves=0, like_state=beside), "embed", None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_channel_beside_the_state_counts_like_one_of_the_state(name):
    """With the weights of the first layer for its second channel, it does what a second channel of the state does."""
    make, first, grid = NETWORKS[name]
    torch.manual_seed(0)
    wide, narrow = make(2, 0), make(1, 1)
    assert isinstance(narrow.beside, BesideState)
    assert not narrow.beside.layer.weight.any()
    both, one = (getattr(getattr(network, first), "linear", getattr(network, first)) for network in (wide, narrow))
    half = one.weight.shape[1]
    with torch.no_grad():
        one.weight.copy_(both.weight[:, :half])
        one.bias.copy_(both.bias)
        narrow.beside.layer.weight.copy_(both.weight[:, half:])
    x, axis = (torch.randn(3, 2, *grid), 1) if grid else (torch.randn(3, 5, 2), 2)
    state, beside = x.split(1, axis)
    arrange = narrow.beside.arrange
    torch.testing.assert_close(narrow.beside(one(arrange(state)), beside), both(arrange(x)))
