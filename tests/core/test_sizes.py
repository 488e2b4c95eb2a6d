"""Sizes of samples: Bayes' rule by hand, frequencies, and what users write."""

import math

import pytest
import torch

from diffcore.errors import UserError
from diffcore.sizes import Sizes

SIZES = Sizes(10, {3: 10, 5: 30, 9: 60}, {"weight": ((1.0, 0.5), (2.0, 0.5), (4.0, 1.0))})


def test_sizes_are_drawn_as_often_as_they_occur():
    drawn = SIZES.draw(range(4000), 0, {})
    shares = [(drawn == size).double().mean().item() for size in (3, 5, 9)]
    assert shares == pytest.approx([0.1, 0.3, 0.6], abs=0.025)


def test_conditions_bear_on_sizes_by_bayes_rule():
    value = torch.tensor([2.5, math.nan])
    density = [math.exp(-0.5 * ((2.5 - m) / s) ** 2) / s for m, s in SIZES.about["weight"]]
    joint = torch.tensor([p * d for p, d in zip((0.1, 0.3, 0.6), density, strict=True)], dtype=torch.float64)
    found = SIZES.log_probabilities({"weight": value}, 2).softmax(1)
    torch.testing.assert_close(found[0], joint / joint.sum())
    torch.testing.assert_close(found[1], torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64))


def test_a_size_does_not_depend_on_the_batch():
    whole = SIZES.draw(range(50), 4, {})
    assert SIZES.draw([17], 4, {}).item() == whole[17]
    assert not torch.equal(whole, SIZES.draw(range(50), 5, {}))


def test_sizes_that_are_asked_for():
    assert SIZES.asked("7", range(2), 0, {}).tolist() == [7, 7]
    drawn = SIZES.asked("1..6", range(3000), 0, {})
    assert (drawn == 5).double().mean().item() == pytest.approx(0.75, abs=0.03)
    assert set(drawn.tolist()) == {3, 5}


@pytest.mark.parametrize("text", ["0", "11", "4..12", "6..4", "many", "3.5", "", "6..8"])
def test_sizes_that_cannot_be_are_refused(text):
    with pytest.raises(UserError, match="--size"):
        SIZES.asked(text, range(2), 0, {})


def test_masks_have_the_first_elements():
    mask = SIZES.mask(torch.tensor([3, 10]))
    assert mask.shape == (2, 10)
    assert mask.sum(1).tolist() == [3, 10]
    assert mask[0, :3].all()
