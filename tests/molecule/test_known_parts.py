"""Training on molecules of which a part is known."""

import pytest
import torch

from diffcore.denoising.known import known_in
from diffcore.errors import UserError
from diffcore.plugins import registry as plugins
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.states.noise import Draws
from diffcore.states.state import fields
from diffcore.tasks.batch import draw_batch
from diffcore.tasks.denoise import loss, losses_by_field
from diffcore_molecule.data.known_parts import draw_known

SMALL = {"name": "equivariant", "width": 16, "pair_width": 16, "depth": 1, "heads": 4, "inner": 4}


def built(known, **denoiser):
    values = {"levels": {"known": known}, "train": {"batch_size": 64}, "denoiser": {**SMALL, **denoiser}}
    settings = compose(plugins.installed(), "molecule", file=values)
    data = build_data(settings, plugins.installed())
    return build_model(settings, data.facts, plugins.installed()), settings, data


@pytest.fixture(scope="module")
def some():
    return built(0.5)


def test_what_is_known_has_no_noise_and_no_loss(some):
    model, settings, data = some
    batch = draw_batch(model, settings, data, 0)
    known, noisy = known_in(batch.kept_conditions), fields(batch.noisy)
    share = fields(known)["atoms"].flatten(1).any(1).float().mean().item()
    assert 0.3 < share < 0.7
    for name, flag in fields(known).items():
        assert torch.equal(noisy[name][flag], fields(batch.x0)[name][flag])
        assert (fields(batch.noise)[name][flag] == 0).all()
    each = loss(model, batch, settings)
    assert sum(losses_by_field(model, batch, settings).values()) == pytest.approx(each.mean().item(), rel=1e-4)
    # The known values of the prediction have no part in it: the error of what is known is projected away.
    space = batch.space_of(model.codec)
    moved = space.project(known.apply(lambda flag: flag.float()), batch.mask)
    assert all((value == 0).all() for value in fields(moved).values())


def test_examples_of_which_nothing_is_known_are_those_of_a_run_without(some):
    model, settings, data = some
    plain, without, _ = built(0.0)
    first, second = draw_batch(model, settings, data, 3), draw_batch(plain, without, data, 3)
    free = ~torch.stack([f.flatten(1).any(1) for f in fields(known_in(first.kept_conditions)).values()]).any(0)
    assert 0 < free.sum() < len(free)
    for name, value in fields(second.noisy).items():
        torch.testing.assert_close(fields(first.noisy)[name][free], value[free], atol=1e-6, rtol=0)
    torch.testing.assert_close(loss(model, first, settings)[free], loss(plain, second, without)[free])


def test_parts_have_their_pairs_and_closed_atoms_have_no_bond(some):
    model, _, data = some
    encoded = model.codec.encode(data.examples[:400])
    bonded = model.codec._bonds.nearest(encoded.state["bonds"]) > 0
    known = draw_known(encoded.state, bonded, encoded.mask, Draws.of(0, range(400)))
    places, atoms, bonds = (known[name][..., 0] for name in ("positions", "atoms", "bonds"))
    there = encoded.mask
    assert not (atoms & ~there).any()
    assert not (bonds & ~(there[:, :, None] & there[:, None])).any()
    conformers = (atoms == there).all(1) & ~places.any(1)
    parts = places.any(1) & (places == atoms).all(1) & ~(places == there).all(1)
    assert 0.1 < conformers.float().mean() < 0.3
    assert 0.6 < parts.float().mean() < 0.8
    mixed = bonds[parts] & places[parts][:, :, None] & ~places[parts][:, None]
    assert mixed.any()
    assert not (mixed & bonded[parts]).any()  # an atom that has a bond to an unknown one is not closed


def test_networks_that_cannot_be_told_are_refused():
    values = {"levels": {"known": 0.5}, "denoiser": {"name": "transformer"}}
    settings = compose(plugins.installed(), "molecule", file=values)
    facts = build_data(settings, plugins.installed()).facts
    with pytest.raises(UserError, match=r"`levels.known`: the denoiser 'transformer' cannot be told what is known"):
        build_model(settings, facts, plugins.installed())
