"""Latents of molecules: a vector for each atom."""

import math

import numpy
import pytest
import torch

from diffcore.errors import UserError
from diffcore.plugins.registry import installed
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.states.noise import generator_for
from diffcore.states.spaces import Euclidean
from diffcore.states.state import fields
from diffcore.testing.plugin import randomised
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.evaluation.fidelity import fidelity
from diffcore_molecule.networks.builders import atoms, equivariant
from diffcore_molecule.options import AtomsOptions, EquivariantOptions


@pytest.fixture(scope="module")
def model():
    small = {"task": "encode", "autoencoder": {"width": 32, "pair_width": 16, "depth": 1, "heads": 4, "inner": 4}}
    settings = compose(installed(), "molecule", file=small)
    data = build_data(settings, installed())
    return build_model(settings, data.facts, installed()), data.examples[:12]


@pytest.fixture(scope="module")
def network(model):
    return randomised(model[0].network).autoencoder


@pytest.fixture(scope="module")
def encoded(model):
    return model[0].codec.encode(model[1])


@torch.no_grad()
def test_latents_follow_the_order_of_the_atoms_and_so_do_molecules(network, encoded):
    state, mask = encoded.state, encoded.mask
    order = torch.rand(mask.shape, generator=generator_for(0)).argsort(1)
    rows = torch.arange(len(mask))[:, None]

    def moved(name, field):
        field = field[rows, order]
        return field.transpose(1, 2)[rows, order].transpose(1, 2) if name == "bonds" else field

    other = type(state)({name: moved(name, field) for name, field in fields(state).items()}, batch_size=[len(mask)])
    latent = network.encode(state, mask)
    torch.testing.assert_close(network.encode(other, mask[rows, order]), latent[rows, order], atol=1e-5, rtol=1e-4)
    decoded = network.decode(latent, mask)
    again = network.decode(latent[rows, order], mask[rows, order])
    for name in ("positions", "atoms", "bonds"):
        present = mask[rows, order]
        present = present[:, :, None] & present[:, None] if name == "bonds" else present
        torch.testing.assert_close(again[name][present], moved(name, decoded[name])[present], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_absent_atoms_have_no_latent_and_no_influence(network, encoded):
    state, mask = encoded.state, encoded.mask
    assert not mask.all()
    latent = network.encode(state, mask)
    assert not latent[~mask].any()
    changed = latent.clone()
    changed[~mask] = 3.0
    first, second = (network.decode(z, mask) for z in (latent, changed))
    torch.testing.assert_close(first["positions"][mask], second["positions"][mask])


def test_the_loss_is_that_of_its_definition(model, network, encoded):
    """The true categories with logits of log 9 against 0: -log p follows from the number of categories."""
    state, mask, codec = encoded.state, encoded.mask, model[0].codec
    logits = {
        name: math.log(9) * torch.nn.functional.one_hot(own.nearest(state[name]), len(own.codes)).float()
        for name, own in network.categories.items()
    }
    decoded = type(state)({"positions": state["positions"] + 0.0, **logits}, batch_size=state.batch_size)
    found = network.losses(decoded, state, mask)
    for name, own in network.categories.items():
        expected = -math.log(9 / (9 + len(own.codes) - 1))
        torch.testing.assert_close(found[name], torch.full((12,), expected))
    assert not found["positions"].any()
    restored = codec.decode(network.state_of(decoded, mask), mask)
    originals = codec.decode(state, mask)
    assert [m.value for m in fidelity(codec)(originals, restored)] == [1.0, pytest.approx(0.0, abs=1e-6)]


def test_graphs_are_compared_atom_by_atom():
    def molecule(numbers, bonds, shift=0.0):
        n = len(numbers)
        positions = numpy.zeros((n, 3), numpy.float32) + numpy.float32(shift)
        return Molecule(numpy.array(numbers, numpy.uint8), numpy.zeros(n, numpy.int8), numpy.array(bonds), positions)

    single, double = [[0, 1], [1, 0]], [[0, 2], [2, 0]]
    originals = [molecule([6, 8], single), molecule([6, 8], single), molecule([6, 8], double)]
    found = [molecule([6, 8], single, 1.0), molecule([6, 7], single, 1.0), molecule([6, 8], single, 1.0)]
    identical, error = fidelity(None)(originals, found)
    assert identical.value == pytest.approx(1 / 3)
    assert error.value == pytest.approx(math.sqrt(3))


def test_networks_are_of_latents_or_of_molecules(model):
    space = model[0].codec.space
    with pytest.raises(UserError, match="`denoiser` atoms diffuses in latents: give `latent`"):
        atoms(AtomsOptions(), space)
    with pytest.raises(UserError, match="denoises molecules, not latents: in latents, use `denoiser` atoms"):
        equivariant(EquivariantOptions(), Euclidean((9, 8)))
    network = atoms(AtomsOptions(width=16, depth=1, heads=2), Euclidean((9, 8)))
    assert network(torch.zeros(2, 9, 8), torch.zeros(2, 16)).shape == (2, 9, 8)
