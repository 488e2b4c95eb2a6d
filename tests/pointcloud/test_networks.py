"""The plugin's networks on states of one field and of several."""

import pytest
import torch
from tensordict import TensorDict

from diffcore.denoiser import Denoiser
from diffcore.errors import UserError
from diffcore.levels import Level
from diffcore.spaces import Euclidean, Product
from diffcore_pointcloud import networks
from diffcore_pointcloud.options import LatentOptions, TransformerOptions

PLAIN = Euclidean((9, 3))
RICH = Product({"positions": Euclidean((9, 3)), "normals": Euclidean((9, 3)), "colours": Euclidean((9, 3))})
BUILT = [
    pytest.param(
        lambda space: networks.latent(LatentOptions(width=8, latents=3, latent_width=12, heads=2), space), id="latent"
    ),
    pytest.param(lambda space: networks.transformer(TransformerOptions(width=8, depth=2), space), id="transformer"),
]


def awake(network):
    torch.manual_seed(1)
    for parameter in network.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.3)
    return network.double()


@pytest.mark.parametrize("build", BUILT)
def test_fields_are_one_vector_a_point(build):
    network = awake(build(RICH))
    generator = torch.Generator().manual_seed(0)
    parts = {name: torch.randn(2, 9, 3, generator=generator, dtype=torch.float64) for name in RICH.parts}
    conditioning = torch.randn(2, network.width, generator=generator, dtype=torch.float64)
    said = network(TensorDict(parts, batch_size=[2]), conditioning)
    assert list(said.keys()) == list(parts)
    joined = network.network(torch.cat(list(parts.values()), -1), conditioning)
    for number, part in enumerate(said.values()):
        assert torch.equal(part, joined[..., 3 * number : 3 * number + 3])


@pytest.mark.parametrize("build", BUILT)
@pytest.mark.parametrize("space", [PLAIN, RICH], ids=["positions", "normals and colours"])
def test_a_denoiser_of_more_points_than_it_was_made_for(build, space):
    denoiser = awake(Denoiser(build(space), ()))
    n, generator = 40, torch.Generator().manual_seed(0)
    x = space.empty(2)
    x = (
        torch.randn(2, n, 3, generator=generator, dtype=torch.float64)
        if isinstance(x, torch.Tensor)
        else TensorDict(
            {k: torch.randn(2, n, 3, generator=generator, dtype=torch.float64) for k in x.keys()}, batch_size=[2]
        )
    )
    order = torch.randperm(n, generator=generator)
    said, permuted = (
        denoiser(state, Level(0.6, 0.8)).x0
        for state in (x, x[:, order] if space is PLAIN else x.apply(lambda field: field[:, order]))
    )
    pairs = [(said, permuted)] if space is PLAIN else [(said[k], permuted[k]) for k in space.parts]
    for before, after in pairs:
        torch.testing.assert_close(after, before[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: networks.latent(LatentOptions(width=64, heads=3), PLAIN),
            "--denoiser.heads 3 does not divide --denoiser.width 64",
        ),
        (
            lambda: networks.latent(LatentOptions(width=24, latent_width=128, heads=3), PLAIN),
            "--denoiser.heads 3 does not divide --denoiser.latent_width 128",
        ),
        (
            lambda: networks.transformer(TransformerOptions(width=128, heads=5), PLAIN),
            "--denoiser.heads 5 does not divide --denoiser.width 128",
        ),
    ],
)
def test_heads_must_divide_widths(build, message):
    with pytest.raises(UserError, match=message):
        build()
