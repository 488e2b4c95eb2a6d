"""The plugin's networks on states of one field and of several."""

import pytest
import torch

from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.inputs import Inputs, Tokens
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


@pytest.mark.parametrize("build", [networks.latent, networks.transformer])
def test_points_attend_to_tokens_in_each_part_of_a_batch(build, monkeypatch):
    options = LatentOptions(width=8, latents=3, latent_width=12, heads=2)
    options = options if build is networks.latent else TransformerOptions(width=8, depth=2)
    network, x = randomised(build(options, RICH, Inputs(tokens=5))), states(RICH, 9)
    conditioning = torch.randn(2, network.width, dtype=torch.float64)
    tokens = Tokens(torch.randn(2, 4, 5).double(), torch.tensor([[True, True, False, False], [True] * 4]))
    with torch.no_grad():
        whole = network(x, conditioning, tokens=tokens)
        monkeypatch.setattr(networks, "MOST_POINTS", 10)
        parts = network(x, conditioning, tokens=tokens)
        other = network(x, conditioning, tokens=Tokens(tokens.values + tokens.mask[..., None], tokens.mask))
    for name, field in whole.items():
        torch.testing.assert_close(parts[name], field, rtol=0, atol=1e-12)
        assert ((other[name] - field).abs().amax((1, 2)) > 1e-4).all()


SPACES = pytest.mark.parametrize("space", [PLAIN, RICH], ids=["positions", "normals and colours"])


def x0(denoiser, x):
    return denoiser(x, Level(0.6, 0.8)).x0


@pytest.mark.parametrize("build", BUILT)
@SPACES
@pytest.mark.parametrize("number", [4, 9])
def test_denoising_is_equivariant_to_permutations(build, space, number):
    denoiser, x = randomised(Denoiser(build(space), ())), states(space, number)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(1))
    before, after = x0(denoiser, x), x0(denoiser, map_fields(lambda field: field[:, order], x))
    for name, field in fields(before).items():
        torch.testing.assert_close(fields(after)[name], field[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("build", BUILT)
@SPACES
def test_more_points_than_in_training_do_not_change_the_shape(build, space):
    """The first points are denoised as a cloud of the trained size, and each other point given these alone."""
    denoiser, x = randomised(Denoiser(build(space), ())), states(space, 40)
    whole = x0(denoiser, x)
    trained = x0(denoiser, map_fields(lambda field: field[:, :9], x))
    few = x0(denoiser, map_fields(lambda field: field[:, [*range(9), 30, 20]], x))
    for name, field in fields(whole).items():
        torch.testing.assert_close(field[:, :9], fields(trained)[name], rtol=0, atol=1e-12)
        torch.testing.assert_close(field[:, [30, 20]], fields(few)[name][:, 9:], rtol=0, atol=1e-12)
    moved = x0(denoiser, map_fields(lambda field: field + (torch.arange(40) == 3)[:, None], x))
    for name, field in fields(moved).items():
        assert (field[:, 9:] - fields(whole)[name][:, 9:]).abs().min() > 0  # all depend on the first points


@pytest.mark.parametrize("build", BUILT)
def test_large_batches_are_computed_in_parts(build, monkeypatch):
    denoiser, x = randomised(Denoiser(build(RICH), ())), states(RICH, 40)
    with torch.no_grad():
        whole = x0(denoiser, x)
        most = []
        compute = denoiser.backbone.network.forward
        monkeypatch.setattr(networks, "MOST_POINTS", 41)
        monkeypatch.setattr(
            denoiser.backbone.network, "forward", lambda x, *rest: most.append(x[..., 0].numel()) or compute(x, *rest)
        )
        parts = x0(denoiser, x)
    assert most == [40, 40]
    for name, field in fields(whole).items():
        torch.testing.assert_close(fields(parts)[name], field, rtol=0, atol=1e-12)


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
