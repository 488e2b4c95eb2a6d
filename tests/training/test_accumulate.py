"""`train.accumulate`: a batch in parts gives the step of the whole batch."""

import pytest
import torch

from diffcore.errors import UserError
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.tasks.batch import draw_batch
from diffcore.tasks.objective import Objective
from diffcore.training.state import TrainState
from tests.support.sized_toy import sized_registry
from tests.support.toy import toy_registry


def parts_of(name, registry, **values):
    settings = compose(registry, name, file={"train": {"batch_size": 33, **values}})
    data = build_data(settings, registry)
    return build_model(settings, data.facts, registry), settings, data


@pytest.mark.parametrize("parts", [2, 3, 7, 33])
@pytest.mark.parametrize(("name", "made"), [("toy", toy_registry), ("beads", sized_registry)])
def test_the_gradient_of_the_parts_is_that_of_the_batch(name, made, parts):
    model, settings, data = parts_of(name, made())
    batch, objective = draw_batch(model, settings, data, 3), Objective(model, settings)
    gradients = []
    for pieces in (batch.split(1), batch.split(parts)):
        model.network.zero_grad()
        losses = [objective(piece) for piece in pieces]
        sum(losses).backward()
        gradients.append((sum(losses), [value.grad.clone() for value in model.network.parameters()]))
    assert [len(piece.x0) for piece in batch.split(2)] == [16, 17]
    (whole, expected), (added, found) = gradients
    torch.testing.assert_close(added, whole, rtol=1e-5, atol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_steps_in_parts_give_the_weights_of_steps_with_the_whole_batch():
    weights = []
    for parts in (1, 4):
        model, settings, data = parts_of("toy", toy_registry(), accumulate=parts, learning_rate=1e-2)
        state = TrainState(model, settings, data)
        before = {name: value.clone() for name, value in model.network.state_dict().items()}
        losses = [state.advance(step, 1e-2).item() for step in range(5)]
        weights.append((losses, {name: value - before[name] for name, value in model.network.state_dict().items()}))
    (losses, expected), (others, found) = weights
    assert others == pytest.approx(losses, rel=1e-4)
    largest = max(value.abs().max().item() for value in expected.values())
    assert largest > 0.02
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-4 * largest)


def test_each_part_has_other_dropped_units():
    model, settings, data = parts_of("toy", toy_registry())
    seeds = [piece.dropout_seed for piece in draw_batch(model, settings, data, 0).split(4)]
    assert len(set(seeds)) == 4


def test_more_parts_than_examples_are_refused():
    model, settings, data = parts_of("toy", toy_registry(), accumulate=34)
    with pytest.raises(UserError, match=r"a batch of 33 has no 34 parts: lower `train\.accumulate`, or raise"):
        TrainState(model, settings, data)
