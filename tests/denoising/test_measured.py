"""Conditions and sizes that are measured from the values of examples."""

import math

import pytest
import torch

from diffcore.denoising.conditions import ScalarCondition
from diffcore.denoising.sizes import Sizes
from diffcore.errors import UserError


def test_a_condition_has_the_moments_and_quantiles_of_the_values_that_are_given():
    values = torch.cat([torch.arange(101.0), torch.full((7,), math.nan)])
    found = ScalarCondition.measured("height", values[torch.randperm(108)], "cm", levels=11)
    assert (found.name, found.unit, found.mean) == ("height", "cm", pytest.approx(50))
    assert found.std == pytest.approx(math.sqrt((101**2 - 1) / 12))
    assert found.quantiles == pytest.approx([0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100])
    exact = torch.rand(1000, dtype=torch.float64)
    levels = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert ScalarCondition.measured("x", exact).quantiles == pytest.approx(exact.quantile(levels).tolist())


def test_a_condition_without_values_is_refused():
    with pytest.raises(UserError, match="'height' has no value in any example"):
        ScalarCondition.measured("height", torch.full((3,), math.nan))
    with pytest.raises(UserError, match="'height' is infinite in some examples"):
        ScalarCondition.measured("height", torch.tensor([1.0, math.inf]))


def test_sizes_are_counted_and_scalars_described_by_size():
    sizes, weight = torch.tensor([3, 1, 3, 5, 3]), torch.tensor([2.0, 7.0, 4.0, math.nan, math.nan])
    found = Sizes.measured(sizes, 6, {"weight": weight})
    assert (found.largest, found.counts) == (6, {1: 1, 3: 3, 5: 1})
    everything = (pytest.approx(13 / 3), pytest.approx(weight[:3].std(correction=0).item()))
    assert found.about["weight"] == (everything, (pytest.approx(3.0), pytest.approx(1.0)), everything)
    assert Sizes.measured(sizes).largest == 5
