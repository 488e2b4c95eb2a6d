"""Latents of clouds: tokens."""

import pytest
import torch
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.states.noise import generator_for
from diffcore.states.spaces import Euclidean, Product
from diffcore.testing.plugin import randomised
from diffcore_pointcloud.autoencoder import CloudAutoencoder, fidelity, tokens
from diffcore_pointcloud.networks import transformer
from diffcore_pointcloud.options import AutoencoderOptions, TokensOptions, TransformerOptions

SMALL = AutoencoderOptions(tokens=5, latent=3, width=16, inner=32)
POINTS = Euclidean((20, 3))


def network(space):
    torch.manual_seed(0)
    return randomised(CloudAutoencoder(space, SMALL))


@torch.no_grad()
@pytest.mark.parametrize(
    "space", [POINTS, Product({"positions": POINTS, "normals": POINTS})], ids=["points", "normals"]
)
def test_latents_do_not_depend_on_the_order_of_the_points(space):
    net = network(space)
    state = _random(space)
    order = torch.randperm(20, generator=generator_for(1))
    moved = state[:, order] if isinstance(state, torch.Tensor) else state.apply(lambda field: field[:, order])
    latent = net.encode(state)
    assert latent.shape == (4, 3, 5, 1) == (4, *net.space.shape)
    torch.testing.assert_close(net.encode(moved), latent, atol=1e-5, rtol=1e-4)
    decoded = net.decode(latent)
    for name, value in net.losses(decoded, state).items():
        torch.testing.assert_close(net.losses(decoded, moved)[name], value)


def _random(space):
    generator = generator_for(0)
    drawn = torch.randn(4, 20, 3, generator=generator)
    if space is POINTS:
        return drawn
    return TensorDict({"positions": drawn, "normals": torch.randn(4, 20, 3, generator=generator)}, batch_size=[4])


def test_the_loss_is_a_chamfer_distance_and_the_error_of_the_nearest():
    space = Product({"positions": Euclidean((2, 3)), "normals": Euclidean((2, 3))})
    net = network(space)
    true = torch.tensor([[[0.0, 0, 0], [10, 0, 0]]])
    found = torch.tensor([[[10.0, 3, 0], [0, 0, 6]]])  # at distances 3 and 6
    normals = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    state = TensorDict({"positions": true, "normals": normals}, batch_size=[1])
    decoded = TensorDict({"positions": found, "normals": normals.flip(1) * 2}, batch_size=[1])
    losses = net.losses(decoded, state)
    assert losses["positions"].item() == pytest.approx(2 * (9 + 36) / 2 / 3)
    assert losses["normals"].item() == pytest.approx(2 * 1 / 3)


def test_the_measure_is_the_chamfer_distance_of_clouds():
    a = torch.randn(2, 40, 3, generator=generator_for(0))
    first = TensorDict({"positions": a}, batch_size=[2])
    second = TensorDict({"positions": a.flip(1)}, batch_size=[2])
    distance, halves = fidelity(None)(first, second)
    assert distance.value == pytest.approx(0.0, abs=1e-5)
    squares = torch.cdist(a[:, ::2], a[:, 1::2]).square()
    expected = squares.amin(1).mean(1) + squares.amin(2).mean(1)
    assert halves.value == pytest.approx(expected.mean().item(), rel=1e-4)


def test_networks_are_of_latents_or_of_points():
    with pytest.raises(UserError, match="`denoiser` tokens diffuses in latents: give `latent`"):
        tokens(TokensOptions(), POINTS)
    with pytest.raises(UserError, match="denoises points, not latents: in latents, use `denoiser` tokens"):
        transformer(TransformerOptions(), Euclidean((3, 5, 1)))
    made = tokens(TokensOptions(width=16, depth=1, heads=2), Euclidean((3, 5, 1)))
    assert made(torch.zeros(2, 3, 5, 1), torch.zeros(2, 16)).shape == (2, 3, 5, 1)
