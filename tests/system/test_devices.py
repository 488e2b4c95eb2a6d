"""Conditions and states on a device that is not there: fake tensors know where they are, and where they may meet."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from diffcore.denoising.conditions import ClassCondition, ScalarCondition, drop, nulls
from diffcore.denoising.embedding import Conditioning
from diffcore.denoising.sizes import Sizes
from diffcore.states import categories
from diffcore.states.level import Level

NUMBER, LABEL = ScalarCondition("weight", 1.0, 2.0, (0.0, 3.0)), ClassCondition("label", ("a", "b"))


@pytest.fixture
def elsewhere(monkeypatch):
    """Tensors are fake, and there is a GPU. Fake tensors cannot be pinned."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    categories._placed.cache_clear()
    with FakeTensorMode():
        yield torch.device("cuda", 0)
    categories._placed.cache_clear()


def test_sizes_are_told_of_conditions_on_a_device(elsewhere):
    sizes = Sizes(3, {1: 1, 3: 2}, {"weight": ((1.0, 0.5), (2.0, 0.5))})
    values = {"weight": torch.tensor([1.0, math.nan]).to(elsewhere)}
    assert sizes.log_probabilities(values, 2).device.type == "cpu"


def test_conditions_stay_where_they_are(elsewhere):
    values = {"weight": torch.ones(3, device=elsewhere), "label": torch.zeros(3, dtype=torch.int64, device=elsewhere)}
    kept = drop((NUMBER, LABEL), values, 0.5, torch.rand(3, 2))
    assert {value.device for value in kept.values()} == {elsewhere}
    assert {value.device for value in nulls((NUMBER, LABEL), 3, elsewhere).values()} == {elsewhere}
    output = torch.zeros(3, 2, device=elsewhere)
    for condition in (NUMBER, LABEL):
        assert condition.head.log_likelihood(output, values[condition.name]).device == elsewhere
    with elsewhere:
        told = Conditioning((NUMBER, LABEL), 8)
    assert told(torch.zeros(3, device=elsewhere), kept).vector.device == elsewhere


def test_categories_follow_the_state(elsewhere):
    points = categories.one_hot((0.2, 0.3, 0.5))
    x = torch.zeros(2, 5, 3, device=elsewhere)
    scale = torch.rand(2, dtype=torch.float64).to(elsewhere)
    for level in (Level(0.6, 0.8), Level(scale, scale)):
        found = points.expectation(x, level, torch.zeros(2, 5, 3, device=elsewhere))
        assert (found.device, found.dtype) == (elsewhere, torch.float32)
    assert points.nearest(x).device == elsewhere
    assert points.encode(points.nearest(x)).device == elsewhere
