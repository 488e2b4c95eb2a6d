"""Batches of states with a mask and several conditions, and their loss."""

import math

import pytest
import torch

from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.states.state import fields
from diffcore.system import distributed
from diffcore.tasks import batch as batches
from diffcore.tasks.batch import draw_batch
from diffcore.tasks.objective import Objective
from tests.support.sized_toy import sized_registry

REGISTRY = sized_registry()
BATCH = 30


@pytest.fixture(scope="module")
def beads():
    """An untrained model, its settings and data."""
    settings = compose(REGISTRY, "beads", file={"train": {"batch_size": BATCH, "condition_dropout": 0.5}})
    data = build_data(settings, REGISTRY)
    return build_model(settings, data.facts, REGISTRY), settings, data


def test_the_noise_of_a_batch_lies_in_the_space(beads):
    model, settings, data = beads
    batch = draw_batch(model, settings, data, 0)
    projected = model.codec.space.project(batch.noise, batch.mask)
    assert not batch.mask.all()
    for name, field in fields(batch.noise).items():
        torch.testing.assert_close(field, fields(projected)[name])


def test_conditions_are_dropped_independently(beads):
    model, settings, data = beads
    kept = {condition.name: [] for condition in model.codec.conditions}
    for step in range(40):
        batch = draw_batch(model, settings, data, step)
        for condition in model.codec.conditions:
            known, left = batch.conditions[condition.name], batch.kept_conditions[condition.name]
            given = condition.given(left)
            assert torch.equal(left[given], known[given])
            kept[condition.name].append(torch.where(condition.given(known), given.double(), math.nan))
    kept = torch.stack([torch.cat(values) for values in kept.values()])
    tolerance = 5 * 0.5 / math.sqrt(kept.shape[1])
    assert len(kept) == 2
    assert kept.nanmean(1).tolist() == pytest.approx([0.5, 0.5], abs=tolerance)
    assert kept.prod(0).nanmean().item() == pytest.approx(0.25, abs=tolerance)


def test_the_loss_is_a_mean_over_the_degrees_of_freedom_that_exist(beads):
    """n beads have 2 (n - 1) of places about their centre and 3 n of kinds, however many elements are stored."""
    model, settings, data = beads
    batch = draw_batch(model, settings, data, 3)
    count = batch.mask.sum(1)
    assert len(set(count.tolist())) > 2
    with torch.no_grad():
        eps = model.denoiser(batch.noisy, batch.level, batch.kept_conditions, batch.mask).eps
        found = Objective(model, settings)(batch)
    present = batch.mask[..., None]
    place = present * (eps["place"] - batch.noise["place"])
    place = place - present * (place.sum(1) / count[:, None])[:, None]
    kind = present * (eps["kind"] - batch.noise["kind"])
    squares = place.square().sum((1, 2)) + kind.square().sum((1, 2))
    expected = (squares / (2 * (count - 1) + 3 * count).clamp(min=1)).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_shares_of_several_processes_have_the_loss_of_the_batch(beads, monkeypatch):
    model, settings, data = beads
    loss = Objective(model, settings)(draw_batch(model, settings, data, 2))
    for module in (distributed, batches):
        monkeypatch.setattr(module, "world", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(Objective(model, settings)(draw_batch(model, settings, data, 2)))
    torch.testing.assert_close(sum(shares) / 4, loss)
