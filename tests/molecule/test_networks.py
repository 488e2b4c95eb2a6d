"""Symmetries of the networks in float64, and their tensor products compared with those of e3nn."""

import pytest
import torch
from e3nn import o3
from tensordict import TensorDict

from diffcore.denoising.inputs import Inputs, Tokens
from diffcore.states.noise import Draws
from diffcore_molecule.codec import MoleculeCodec, random_rotations
from diffcore_molecule.networks import builders as networks
from diffcore_molecule.networks import equivariant
from diffcore_molecule.options import EquivariantOptions, MoleculeFacts, TransformerOptions

FACTS = MoleculeFacts(
    hydrogens=False,
    elements=(6, 7, 8),
    element_fractions=(0.7, 0.1, 0.2),
    charges=(-1, 0, 1),
    charge_fractions=(0.05, 0.9, 0.05),
    bond_fractions=(0.7, 0.25, 0.04, 0.01),
    position_std=1.2,
    max_atoms=6,
    sizes=(3, 4, 5, 6),
    size_counts=(1, 2, 3, 4),
)
SPACE = MoleculeCodec(FACTS).space
SMALL = {"width": 16, "pair_width": 12, "depth": 2, "heads": 4, "inner": 4}


def randomised(network, scale=0.2):
    """The network in float64, with random values in layers that are initialised to zero."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=scale)
    return network.double().eval()


def batch(sizes=(6, 4, 3), seed=0):
    mask = torch.arange(6) < torch.tensor(sizes)[:, None]
    generator = torch.Generator().manual_seed(seed)
    normal = SPACE.empty(len(sizes)).double()
    normal = TensorDict(
        {k: torch.randn(v.shape, generator=generator, dtype=torch.float64) for k, v in normal.items()},
        normal.batch_size,
    )
    return SPACE.noise(normal, mask), mask


class Reading(torch.nn.Module):
    """A network that is given the same tokens for each call."""

    def __init__(self, network, channels=5):
        super().__init__()
        self.network, self.width = network, network.width
        self.register_buffer("values", torch.randn(1, 4, channels, generator=torch.Generator().manual_seed(4)))

    def forward(self, x, conditioning, mask=None):
        tokens = Tokens(self.values.expand(len(x), -1, -1), torch.tensor([[True, False, True, True]]).expand(len(x), 4))
        return self.network(x, conditioning, mask, tokens=tokens)


def reading():
    """The denoisers with tokens."""
    return [
        pytest.param(
            Reading(networks.equivariant(EquivariantOptions(**SMALL), SPACE, Inputs(tokens=5))), id="equivariant, told"
        ),
        pytest.param(
            Reading(networks.transformer(TransformerOptions(**SMALL), SPACE, Inputs(tokens=5))), id="transformer, told"
        ),
    ]


def handed():
    """The networks that can tell left from right."""
    one, two = (EquivariantOptions(**SMALL, degree=degree, reflections=False) for degree in (1, 2))
    return [
        pytest.param(networks.equivariant(one, SPACE), id="handed"),
        pytest.param(networks.equivariant(two, SPACE), id="handed of degree 2"),
        pytest.param(networks.invariant_predictor(one, SPACE, 5), id="handed predictor"),
    ]


def denoisers():
    return [
        *reading(),
        pytest.param(networks.equivariant(EquivariantOptions(**SMALL), SPACE), id="equivariant"),
        pytest.param(networks.equivariant(EquivariantOptions(**SMALL, degree=2), SPACE), id="equivariant of degree 2"),
        *handed(),
        pytest.param(networks.transformer(TransformerOptions(**SMALL), SPACE), id="transformer"),
        pytest.param(networks.invariant_predictor(EquivariantOptions(**SMALL), SPACE, 5), id="invariant predictor"),
    ]


def output_of(network, x, mask):
    """The output of the network by field, projected onto the space as in sampling and in the loss."""
    torch.manual_seed(2)
    output = network(x, torch.randn(1, network.width, dtype=torch.float64).expand(x.shape[0], -1), mask)
    if isinstance(output, torch.Tensor):
        return {"": output}
    positions = SPACE.parts["positions"].project(output["positions"], mask)
    off = ~torch.eye(6, dtype=torch.bool) & mask[:, :, None] & mask[:, None]
    return {
        "positions": positions,
        "atoms": output["atoms"] * mask[..., None],
        "charges": output["charges"] * mask[..., None],
        "bonds": output["bonds"] * off[..., None],
    }


def before_and_after(network, mirrored):
    """By field: the output, rotated, and the output for rotated positions."""
    network, (x, mask) = randomised(network), batch()
    left, _, right = torch.linalg.svd(random_rotations(Draws.of(3, [0]))[0].double())
    rotation = left @ right * (-1 if mirrored else 1)  # orthogonal to the last digit, which float32 is not
    rotated = x.clone()
    rotated["positions"] = x["positions"] @ rotation
    before, after = output_of(network, x, mask), output_of(network, rotated, mask)
    assert all(value.abs().max() > 1e-3 for value in before.values()), "an output is zero"
    return {name: (value @ rotation if name == "positions" else value, after[name]) for name, value in before.items()}


@pytest.mark.parametrize("network", [d for d in denoisers() if "transformer" not in d.id])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotations_and_reflections(network, mirrored, request):
    """Networks that can tell left from right rotate with the atoms, but their mirror images are others."""
    handed = "handed" in request.node.callspec.id
    for name, (expected, found) in before_and_after(network, mirrored).items():
        if handed and mirrored:
            assert (found - expected).abs().max() > 1e-5 * expected.abs().max(), name  # rounding is 1e-15
        else:
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_products_without_parity_are_added_to_the_others():
    """So networks that commute with reflections have the same weights as ever; (1, 1, 1) is the cross product."""
    for degree in (1, 2, 3):
        even, both = equivariant.paths(degree), equivariant.paths(degree, reflections=False)
        assert both[: len(even)] == even
        assert len(set(both)) == len(both)
        assert not any(sum(path) % 2 == 0 for path in both[len(even) :])
    harmonics = equivariant.Harmonics(1, reflections=False).double()
    assert harmonics.paths[-1:] == [(1, 1, 1)]
    u, v = torch.nn.functional.normalize(torch.randn(2, 3, dtype=torch.float64), dim=1)
    found = harmonics(u)[-1] @ torch.cat([torch.zeros(1, dtype=torch.float64), v])
    cross = torch.linalg.cross(u, v)
    scale = found[1:] @ cross / cross.square().sum()
    torch.testing.assert_close(found, torch.cat([found[:1] * 0, scale * cross]), atol=1e-6, rtol=1e-6)
    assert abs(scale) > 0.5


@pytest.mark.parametrize("network", denoisers())
def test_the_order_of_atoms_does_not_matter(network):
    network, (x, mask) = randomised(network), batch((6, 6, 6))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = TensorDict({k: v[:, order] for k, v in x.items()}, x.batch_size)
    shuffled["bonds"] = shuffled["bonds"][:, :, order]
    before, after = output_of(network, x, mask), output_of(network, shuffled, mask)
    for name, value in before.items():
        expected = value if name == "" else value[:, order]
        expected = expected[:, :, order] if name == "bonds" else expected
        torch.testing.assert_close(after[name], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("network", reading())
def test_atoms_attend_to_tokens_that_exist(network):
    network, (x, mask) = randomised(network), batch()
    before = output_of(network, x, mask)
    network.values[:, 1] += 1  # does not exist
    masked = output_of(network, x, mask)
    network.values[:, 2] += 1
    after = output_of(network, x, mask)
    for name, value in before.items():
        torch.testing.assert_close(masked[name], value, rtol=0, atol=1e-12)
        assert (after[name] - value).abs().max() > 1e-4


@pytest.mark.parametrize("network", denoisers())
def test_masked_entries_do_not_matter(network):
    network, (x, mask) = randomised(network), batch()
    generator = torch.Generator().manual_seed(9)
    noise = TensorDict(
        {k: 5 * torch.randn(v.shape, generator=generator, dtype=torch.float64) for k, v in x.items()}, x.batch_size
    )
    kept = SPACE.project(noise, mask)
    outside = noise - kept
    outside["positions"] = noise["positions"] * ~mask[..., None]
    symmetric = outside["bonds"] + outside["bonds"].transpose(1, 2)
    outside["bonds"] = symmetric * ~(mask[:, :, None] & mask[:, None])[..., None]
    before, after = output_of(network, x, mask), output_of(network, x + outside, mask)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("network", denoisers())
def test_others_in_the_batch_do_not_matter(network):
    network, (x, mask) = randomised(network), batch()
    whole, alone = output_of(network, x, mask), output_of(network, x[1:2], mask[1:2])
    for name, value in whole.items():
        torch.testing.assert_close(alone[name], value[1:2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("network", denoisers())
def test_every_parameter_has_a_gradient(network):
    network, (x, mask) = randomised(network), batch()
    network.zero_grad()
    sum(value.square().sum() for value in output_of(network, x, mask).values()).backward()
    unused = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 1e-9  # rounding leaves about 1e-15
    ]
    assert not unused


@pytest.mark.parametrize("reflections", [True, False])
@pytest.mark.parametrize("degree", [1, 2])
def test_maps_are_e3nns_tensor_products(degree, reflections):
    """The sum over paths with all weights 1 is e3nn's tensor product of one channel with the same paths."""
    harmonics = equivariant.Harmonics(degree, reflections).double()
    irreps = o3.Irreps([(1, (number, (-1) ** number if reflections else 1)) for number in range(degree + 1)])
    instructions = [(a, b, result, "uuu", False) for a, b, result in harmonics.paths]
    product = o3.TensorProduct(
        irreps, irreps, irreps, instructions, irrep_normalization="none", path_normalization="none"
    ).double()
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(4, 3, generator=generator, dtype=torch.float64), dim=1)
    features = torch.randn(4, (degree + 1) ** 2, generator=generator, dtype=torch.float64)
    spherical = o3.spherical_harmonics(list(range(degree + 1)), unit, normalize=False, normalization="component")
    maps = harmonics(unit)
    scale = torch.cat([torch.full((2 * number + 1,), (2 * number + 1) ** 0.5) for number in range(degree + 1)])
    expected = product(features, spherical) * scale
    found = torch.einsum("bpkm,bm->bk", maps, features)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # coefficients are kept in float32


def test_rotations_are_rotations_and_uniform():
    rotations = random_rotations(Draws.of(0, range(20000))).double()
    torch.testing.assert_close(
        rotations @ rotations.transpose(1, 2),
        torch.eye(3, dtype=torch.float64).expand(20000, -1, -1),
        atol=1e-5,
        rtol=0,
    )
    assert (torch.linalg.det(rotations) > 0).all()
    # of uniform rotations the trace has mean 0 and variance 1, and an image of a vector is uniform on the sphere
    trace = rotations.diagonal(dim1=1, dim2=2).sum(1)
    assert trace.mean().abs() < 0.03
    assert trace.var().item() == pytest.approx(1.0, abs=0.05)
    assert rotations.mean(0).abs().max() < 0.02
