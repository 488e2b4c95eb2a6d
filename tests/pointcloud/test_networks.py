"""The plugin's networks on states of one field and of several."""

import pytest
import torch

from diffcore.denoising.denoiser import Denoiser
from diffcore.errors import UserError
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean, Product
from diffcore.states.state import fields, map_fields
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


def randomised(network):
    torch.manual_seed(1)
    for parameter in network.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.3)
    return network.double()


def states(space, n):
    """Two states of `n` points."""
    generator = torch.Generator().manual_seed(0)
    return map_fields(
        lambda field: torch.randn(2, n, field.shape[-1], generator=generator, dtype=torch.float64), space.empty(2)
    )


@pytest.mark.parametrize("build", BUILT)
def test_fields_are_concatenated_to_one_vector_per_point(build):
    network = randomised(build(RICH))
    x, conditioning = states(RICH, 9), torch.randn(2, network.width, dtype=torch.float64)
    output = network(x, conditioning)
    assert list(output.keys()) == list(RICH.parts)
    joined = network.network(torch.cat(list(x.values()), -1), conditioning)
    for number, part in enumerate(output.values()):
        assert torch.equal(part, joined[..., 3 * number : 3 * number + 3])


@pytest.mark.parametrize("build", BUILT)
@pytest.mark.parametrize("space", [PLAIN, RICH], ids=["positions", "normals and colours"])
def test_denoising_clouds_of_any_size_is_equivariant_to_permutations(build, space):
    denoiser, x = randomised(Denoiser(build(space), ())), states(space, 40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    before = denoiser(x, Level(0.6, 0.8)).x0
    after = denoiser(map_fields(lambda field: field[:, order], x), Level(0.6, 0.8)).x0
    for name, field in fields(before).items():
        torch.testing.assert_close(fields(after)[name], field[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: networks.latent(LatentOptions(width=64, heads=3), PLAIN),
            "`denoiser.heads` 3 does not divide `denoiser.width` 64",
        ),
        (
            lambda: networks.latent(LatentOptions(width=24, latent_width=128, heads=3), PLAIN),
            "`denoiser.heads` 3 does not divide `denoiser.latent_width` 128",
        ),
        (
            lambda: networks.transformer(TransformerOptions(width=128, heads=5), PLAIN),
            "`denoiser.heads` 5 does not divide `denoiser.width` 128",
        ),
    ],
)
def test_heads_must_divide_widths(build, message):
    with pytest.raises(UserError, match=message):
        build()
