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


def test_two_conditions_bear_on_sizes_together_and_one_that_is_missing_not_at_all():
    sizes = Sizes(10, SIZES.counts, {**SIZES.about, "length": ((1.0, 1.0), (1.0, 2.0), (5.0, 2.0))})
    values = {"weight": torch.tensor([2.5, 2.5]), "length": torch.tensor([3.0, math.nan])}
    joint = []
    for share, weight, length in zip((0.1, 0.3, 0.6), *sizes.about.values(), strict=True):
        normals = [torch.distributions.Normal(*row) for row in (weight, length)]
        joint.append(
            share * math.prod(n.log_prob(torch.tensor(c)).exp() for n, c in zip(normals, (2.5, 3.0), strict=True))
        )
    joint = torch.tensor(joint, dtype=torch.float64)
    found = sizes.log_probabilities(values, 2).softmax(1)
    torch.testing.assert_close(found[0], joint / joint.sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], SIZES.log_probabilities({"weight": torch.tensor([2.5])}, 1).softmax(1)[0])


def test_no_samples_have_no_sizes():
    assert SIZES.draw([], 0, {"weight": torch.empty(0)}).tolist() == []
    assert SIZES.mask(torch.empty(0, dtype=torch.int64)).shape == (0, 10)


def test_a_size_does_not_depend_on_the_batch():
    whole = SIZES.draw(range(50), 4, {})
    assert SIZES.draw([17], 4, {}).item() == whole[17]
    assert not torch.equal(whole, SIZES.draw(range(50), 5, {}))


def test_sizes_that_are_asked_for():
    assert SIZES.asked("7", range(2), 0, {}).tolist() == [7, 7]
    drawn = SIZES.asked("1..6", range(3000), 0, {})
    assert (drawn == 5).double().mean().item() == pytest.approx(0.75, abs=0.03)
    assert set(drawn.tolist()) == {3, 5}
    assert torch.equal(SIZES.asked("..6", range(3000), 0, {}), drawn)
    assert set(SIZES.asked("4..", range(200), 0, {}).tolist()) == {5, 9}
    assert torch.equal(SIZES.asked("..", range(50), 0, {}), SIZES.draw(range(50), 0, {}))


@pytest.mark.parametrize("text", ["0", "11", "4..12", "6..4", "many", "3.5", "", "6..8", "-3", "3..x"])
def test_sizes_that_cannot_be_are_refused(text):
    with pytest.raises(UserError, match="--size"):
        SIZES.asked(text, range(2), 0, {})


def test_masks_have_the_first_elements():
    mask = SIZES.mask(torch.tensor([3, 10]))
    assert mask.shape == (2, 10)
    assert mask.sum(1).tolist() == [3, 10]
    assert mask[0, :3].all()
