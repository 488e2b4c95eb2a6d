"""Categories as points: Bayes' rule against sums by hand, and denoisers whose fields are told in different views."""

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from diffcore.denoising.denoiser import Denoiser, velocity
from diffcore.states.categories import Categories, one_hot
from diffcore.states.level import Level

FOUR = one_hot((0.1, 0.2, 0.3, 0.4))


def test_one_hot_points_have_zero_mean_and_unit_variance():
    points = torch.tensor(FOUR.codes, dtype=torch.float64)
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    torch.testing.assert_close(
        (shares[:, None] * points).sum(0), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0
    )
    assert (shares[:, None] * points.square()).sum(0).mean().item() == pytest.approx(1.0)


def test_points_and_categories_and_back():
    kinds = torch.randint(4, (5, 6), generator=torch.Generator().manual_seed(0))
    noisy = FOUR.encode(kinds) + 0.2 * torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(FOUR.nearest(noisy), kinds)
    uneven = Categories(((0.0,), (1.0,), (5.0,)), (0.2, 0.3, 0.5))  # the nearest, not the largest projection
    assert uneven.nearest(torch.tensor([[0.4], [0.6], [2.9], [3.1]])).tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("log_snr", [-4.0, 0.0, 3.0])
def test_the_expectation_is_bayes_rule(log_snr):
    alpha, sigma = math.sqrt(torch.sigmoid(torch.tensor(log_snr))), math.sqrt(torch.sigmoid(torch.tensor(-log_snr)))
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    points = torch.tensor(FOUR.codes, dtype=torch.float64)
    density = torch.distributions.Normal(alpha * points, sigma).log_prob(x[:, None]).sum(-1).exp()
    weights = prior * density
    expected = (weights / weights.sum(1, keepdim=True)) @ points
    logits = torch.tensor([1.0, -0.5, 0.0, 0.7], dtype=torch.float64)
    weights = prior * logits.exp() * density
    told = (weights / weights.sum(1, keepdim=True)) @ points
    torch.testing.assert_close(FOUR.expectation(x, Level(alpha, sigma), logits + 3.0), told, rtol=1e-9, atol=1e-12)
    found = FOUR.expectation(x, Level(alpha, sigma))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    each = Level(torch.full((7,), alpha), torch.full((7,), sigma))
    torch.testing.assert_close(FOUR.expectation(x, each).float(), expected.float())


def test_at_low_noise_the_entry_itself_decides():
    kinds = torch.arange(4)
    x0 = FOUR.encode(kinds)
    found = FOUR.expectation(x0, Level(1.0, math.exp(-5)), torch.tensor([3.0, -3.0, 0.0, 1.0]))
    assert torch.equal(found, x0)


@pytest.mark.parametrize("log_snr", [-20.0, 20.0, 80.0])
def test_the_expectation_is_finite_at_both_ends_where_it_is_told_in_float32(log_snr):
    alpha, sigma = (torch.sigmoid(torch.tensor(s * log_snr, dtype=torch.float64)).sqrt().item() for s in (1, -1))
    kinds = torch.arange(4)
    x = alpha * FOUR.encode(kinds) + sigma * torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    found = FOUR.expectation(x, Level(alpha, sigma))
    expected = FOUR.encode(kinds) if log_snr > 0 else torch.zeros(4, 4)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    each = Level(*(torch.full((4,), scale, dtype=torch.float64) for scale in (alpha, sigma)))
    torch.testing.assert_close(FOUR.expectation(x, each), found)


def test_points_are_put_on_a_device_once():
    x = torch.zeros(2, 4)
    assert FOUR.table(x) is FOUR.table(x + 1)
    assert FOUR.log_frequencies(x) is FOUR.log_frequencies(x + 1)
    assert FOUR.table(x.double()).dtype == torch.float64
    assert FOUR.table(x).dtype == torch.float32


class Oracle(nn.Module):
    """Says v of one field, x0 of the second and logits of the third, of a state that it knows."""

    width = 4

    def __init__(self, answers, categories):
        super().__init__()
        self.answers = answers
        self.views = {"b": "x0", "c": categories}

    def forward(self, x, conditioning, mask=None):
        return TensorDict(self.answers, batch_size=x.batch_size)


@pytest.mark.parametrize("parameterisation", ["eps", "x0", "v"])
def test_fields_in_different_views_make_one_prediction(parameterisation, float64):
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(4, (6, 3), generator=generator)
    x0 = TensorDict(
        {
            "a": torch.randn(6, 2, generator=generator, dtype=torch.float64),
            "b": torch.randn(6, 5, generator=generator, dtype=torch.float64),
            "c": FOUR.encode(kinds).double(),
        },
        batch_size=[6],
    )
    eps = TensorDict({k: torch.randn(v.shape, generator=generator, dtype=torch.float64) for k, v in x0.items()}, [6])
    level = Level(2.0, 1.5)  # not of unit variance: the denoiser scales
    x = level.alpha * x0 + level.sigma * eps
    own = Oracle({"a": None, "b": x0["b"], "c": 200.0 * nn.functional.one_hot(kinds, 4).double()}, FOUR)
    own.answers["a"] = {"eps": eps, "x0": x0, "v": velocity(x0, eps, level)}[parameterisation]["a"]
    prediction = Denoiser(own, (), parameterisation).double()(x, level)
    for name in x0.keys():
        torch.testing.assert_close(prediction.x0[name], x0[name], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(prediction.eps[name], eps[name], rtol=1e-9, atol=1e-9)
