"""Sizes of samples: Bayes' rule by hand, frequencies, and what users write."""

import math
from types import SimpleNamespace

import pytest
import torch

from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.sizes import Sizes, whole_number
from diffcore.errors import UserError
from diffcore.nn.dit import DiT
from diffcore.process.schedules import Cosine
from diffcore.runs.generation import generate, resized
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.sampling.solvers.ddim import ddim
from diffcore.states.spaces import Euclidean
from tests.support.toy import DENOISE

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
    assert SIZES.parse("7", range(2), 0, {}).tolist() == [7, 7]
    drawn = SIZES.parse("1..6", range(3000), 0, {})
    assert (drawn == 5).double().mean().item() == pytest.approx(0.75, abs=0.03)
    assert set(drawn.tolist()) == {3, 5}
    assert torch.equal(SIZES.parse("..6", range(3000), 0, {}), drawn)
    assert set(SIZES.parse("4..", range(200), 0, {}).tolist()) == {5, 9}
    assert torch.equal(SIZES.parse("..", range(50), 0, {}), SIZES.draw(range(50), 0, {}))


def test_sizes_are_at_least_what_is_known():
    """Among 5 and 9, which occur 30 and 60 times; the second sample may have any size."""
    least = torch.tensor([4, 0]).repeat(2000)
    drawn = SIZES.draw(range(4000), 0, {}, least)
    assert [(drawn[::2] == size).double().mean().item() for size in (3, 5, 9)] == pytest.approx(
        [0, 1 / 3, 2 / 3], abs=0.03
    )
    assert [(drawn[1::2] == size).double().mean().item() for size in (3, 5, 9)] == pytest.approx(
        [0.1, 0.3, 0.6], abs=0.03
    )
    assert SIZES.parse("4..", range(50), 0, {}, torch.full((50,), 6)).unique().tolist() == [9]
    with pytest.raises(UserError, match="10 elements are known, and samples have at most 9"):
        SIZES.draw(range(2), 0, {}, torch.tensor([10, 1]))
    with pytest.raises(UserError, match="`size` 5: 6 elements are known"):
        SIZES.parse("5", range(2), 0, {}, torch.tensor([6, 1]))


@pytest.mark.parametrize("text", ["0", "11", "4..12", "6..4", "many", "3.5", "", "6..8", "-3", "3..x"])
def test_sizes_that_cannot_be_are_refused(text):
    with pytest.raises(UserError, match="`size`"):
        SIZES.parse(text, range(2), 0, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5..3", "`size` 5..3: the range ends before it begins; write 3..5"),
        ("1", "`size` 1: the training examples have other sizes: 3, 5, 9"),
        ("10", "`size` 10: the training examples have other sizes: 3, 5, 9"),
        ("..2", "`size` ..2: the training examples have other sizes"),
        ("10..", "`size` 10..: the training examples have other sizes"),
    ],
)
def test_sizes_outside_the_data_are_refused_in_a_line_that_names_those_of_the_data(text, said):
    with pytest.raises(UserError) as caught:
        SIZES.parse(text, range(2), 0, {})
    assert str(caught.value).startswith(said)
    assert SIZES.parse("4", range(2), 0, {}).tolist() == [4, 4]  # between two sizes of the data


def test_masks_have_the_first_elements():
    mask = SIZES.mask(torch.tensor([3, 10]))
    assert mask.shape == (2, 10)
    assert mask.sum(1).tolist() == [3, 10]
    assert mask[0, :3].all()


# Sets of any size


class Dots:
    """The codec of sets of dots on a line, of any number."""

    sizes, conditions = None, ()

    def __init__(self, count):
        self.space = Euclidean((count, 1))

    def resized(self, size):
        return Dots(whole_number(size))


def dots(codec):
    torch.manual_seed(0)
    network = Denoiser(DotNet(), ())
    return Model(SimpleNamespace(name="dots"), codec, network, Cosine(), torch.device("cpu"), DENOISE)


class DotNet(torch.nn.Module):
    """Each dot by itself and the mean of all."""

    width = 4

    def __init__(self):
        super().__init__()
        self.own, self.mean = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

    def forward(self, x, conditioning, mask=None):
        return self.own(x) + self.mean(x.mean(1, keepdim=True))


def test_a_network_of_sets_draws_sets_of_another_size():
    model = dots(Dots(5))
    larger = resized(model, "12")
    assert generate(larger, SamplingConfig(ddim(), steps=3), {}, 2).state.shape == (2, 12, 1)
    assert larger.network is model.network
    assert model.codec.space.shape == (5, 1)


@pytest.mark.parametrize("size", ["0", "-3", "7..9", "many", "1.5"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(UserError, match="write a whole number, 1 or larger"):
        resized(dots(Dots(5)), size)


def test_a_network_of_one_size_is_not_asked_for_another():
    model = dots(Dots(5))
    model.network.backbone.any_size = False
    with pytest.raises(UserError, match="takes samples of the size of the training data only"):
        resized(model, "12")
    assert not DiT(1, (8, 8), patch=4, width=12, depth=1, heads=2).any_size


def test_samples_of_one_size_stay_so():
    codec = SimpleNamespace(space=Euclidean((5, 1)), sizes=None, conditions=())
    with pytest.raises(UserError, match="`size` 7: all samples of dots have the same size"):
        resized(dots(codec), "7")
