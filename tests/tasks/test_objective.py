"""The batch of a training step and its loss."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from diffcore.process.schedules import Cosine
from diffcore.runs.model import build_data, build_model
from diffcore.runs.settings import compose
from diffcore.states.state import fields
from diffcore.system import distributed
from diffcore.tasks import objective
from diffcore.tasks.objective import Objective, draw_batch, losses_by_field, step_loss
from tests.support.sized_toy import sized_registry
from tests.support.toy import toy_registry

BATCH = 30


def made(registry, name, seed=0, **train):
    """An untrained model, its settings and data."""
    file = {"train": {"batch_size": BATCH, "condition_dropout": 0.5, **train.pop("train", {})}, "seed": seed, **train}
    settings = compose(registry, name, file=file)
    data = build_data(settings, registry)
    torch.manual_seed(0)
    return build_model(settings, data.facts, registry), settings, data


@pytest.fixture(scope="module", params=["toy", "beads"])
def parts(request):
    """Of states of one size, and of several with a mask."""
    return made({"toy": toy_registry, "beads": sized_registry}[request.param](), request.param)


@pytest.fixture(scope="module")
def teller():
    return made(toy_registry(), "toy", task="classify")


def same(a, b):
    return all(torch.equal(fields(a)[name], field) for name, field in fields(b).items())


def test_each_part_of_the_time_has_one_level_of_a_batch(parts):
    model, settings, data = parts
    model = replace(model, schedule=Cosine())
    shifts = []
    for step in range(3):
        level = draw_batch(model, settings, data, step).level
        times = BATCH * model.schedule.time(level.log_snr.double())
        assert sorted(times.floor().int().tolist()) == list(range(BATCH))
        # All are shifted alike, which is a random number of its own in each step.
        within = times.frac()
        assert within.std() < 1e-3
        shifts.append(within.mean().item())
    assert max(shifts) - min(shifts) > 0.01


def test_a_step_can_be_drawn_again_and_is_no_other_step(parts):
    model, settings, data = parts
    first = draw_batch(model, settings, data, 3)
    torch.manual_seed(17)
    again, next_one = draw_batch(model, settings, data, 3), draw_batch(model, settings, data, 4)
    assert same(first.noise, again.noise)
    assert same(first.noisy, again.noisy)
    assert all(torch.equal(first.told[name].nan_to_num(9), again.told[name].nan_to_num(9)) for name in first.told)
    assert not same(first.noise, next_one.noise)
    assert not same(first.x0, next_one.x0)
    another = settings.model_copy(update={"seed": 1})
    assert not same(first.noise, draw_batch(model, another, data, 3).noise)


def test_noise_lies_in_the_space(parts):
    model, settings, data = parts
    batch = draw_batch(model, settings, data, 0)
    projected = model.codec.space.project(batch.noise, batch.mask)
    for name, field in fields(batch.noise).items():
        torch.testing.assert_close(field, fields(projected)[name])


def test_conditions_are_left_out_one_by_one(parts):
    model, settings, data = parts
    kept = {condition.name: [] for condition in model.codec.conditions}
    for step in range(40):
        batch = draw_batch(model, settings, data, step)
        for condition in model.codec.conditions:
            known, told = batch.known[condition.name], batch.told[condition.name]
            given = condition.given(told)
            assert torch.equal(told[given], known[given])
            kept[condition.name].append(torch.where(condition.given(known), given.double(), math.nan))
    kept = torch.stack([torch.cat(values) for values in kept.values()])
    spread = 5 * 0.5 / math.sqrt(kept.shape[1])
    assert kept.nanmean(1).tolist() == pytest.approx([0.5] * len(kept), abs=spread)
    # The product of all: each is left out on its own.
    assert kept.prod(0).nanmean().item() == pytest.approx(0.5 ** len(kept), abs=spread)


@pytest.mark.parametrize("processes", [2, 4])
def test_the_parts_of_several_processes_are_the_batch_of_one(parts, monkeypatch, processes):
    model, settings, data = parts
    whole = draw_batch(model, settings, data, 2)
    loss = Objective(model, settings)(whole)
    for module in (distributed, objective):
        monkeypatch.setattr(module, "world", lambda: processes)
    batches = []
    for number in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        batches.append(draw_batch(model, settings, data, 2))
    assert {len(batch.clean) for batch in batches} == {BATCH // processes, -(-BATCH // processes)}
    for name, field in fields(whole.noisy).items():
        parts_of_it = torch.cat([fields(batch.noisy)[name] for batch in batches])
        torch.testing.assert_close(parts_of_it, field)
    losses = [Objective(model, settings)(batch) for batch in batches]
    torch.testing.assert_close(sum(losses) / processes, loss)


def test_a_classifier_s_loss_is_the_cross_entropy_of_what_is_known(teller):
    model, settings, data = teller
    batch = draw_batch(model, settings, data, 0)
    output = model.classifier(batch.noisy, batch.level, batch.mask)["ring"]
    expected = cross_entropy(output, batch.known["ring"])
    torch.testing.assert_close(step_loss(model, settings, data, 0), expected)
    assert losses_by_field(Objective(model, settings), batch) == pytest.approx({"ring": expected.item()})


def test_data_that_are_no_numbers_are_named_alone(parts):
    model, settings, data = parts
    batch = draw_batch(model, settings, data, 0)
    found = losses_by_field(Objective(model, settings), batch)
    assert found.keys() == fields(batch.x0).keys()
    assert all(math.isfinite(value) for value in found.values())
    broken = batch.x0.clone()
    broken["place"][3] = math.inf
    found = losses_by_field(Objective(model, settings), replace(batch, x0=broken))
    assert {name: math.isnan(value) for name, value in found.items()} == {"place of the data": True}
