"""Numbers as conditions: what is asked, what a classifier says of them, and how networks are told."""

import math

import pytest
import torch
from scipy import stats

from diffcore.denoising.conditions import (
    ClassCondition,
    ScalarCondition,
    any_given,
    captions_of,
    drop,
    nulls,
    parse_conditions,
)
from diffcore.denoising.embedding import Conditioning
from diffcore.errors import UserError

# Quantiles of an exponential distribution, cut at its 0.999 quantile.
SHARES = torch.linspace(0, 0.999, 201, dtype=torch.float64)
QUANTILES = tuple((-torch.log1p(-SHARES)).tolist())
NUMBER = ScalarCondition("weight", 1.0, 2.0, QUANTILES, "kg")


def test_a_value_is_asked_for_by_all():
    assert parse_conditions([NUMBER], {"weight": "2.5"}, range(3))["weight"].tolist() == [2.5] * 3
    assert parse_conditions([NUMBER], {"weight": " -1e-3"}, range(1))["weight"].item() == pytest.approx(-1e-3)


@pytest.mark.parametrize(
    ("text", "low", "high"), [("0.5..2", 0.5, 2.0), ("1..", 1.0, QUANTILES[-1]), ("..0.7", 0, 0.7)]
)
def test_a_range_is_drawn_as_the_data_are_within_it(text, low, high):
    drawn = parse_conditions([NUMBER], {"weight": text}, range(2000), seed=3)["weight"].double().numpy()
    assert drawn.min() >= low - 1e-6
    assert drawn.max() <= high + 1e-6
    # against the truncated exponential; the piecewise linear quantiles are within 0.5 % of it
    assert stats.kstest(drawn, stats.truncexpon(b=high - low, loc=low).cdf).pvalue > 0.01
    assert stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue < 1e-4


def test_a_sample_of_a_range_does_not_depend_on_the_others():
    whole = parse_conditions([NUMBER], {"weight": "0..3"}, range(10), seed=1)["weight"]
    assert parse_conditions([NUMBER], {"weight": "0..3"}, [7], seed=1)["weight"].item() == whole[7].item()
    assert parse_conditions([NUMBER], {"weight": "0..3"}, [7], seed=2)["weight"].item() != whole[7].item()


def test_a_range_without_data_is_drawn_evenly():
    drawn = parse_conditions([NUMBER], {"weight": "10..12"}, range(1000))["weight"].double().numpy()
    assert stats.kstest(drawn, stats.uniform(10, 2).cdf).pvalue > 0.01


def test_both_ends_of_a_range_are_in_it():
    """Whole numbers: 0 to 4 with shares 0.1, 0.3, 0.3, 0.2, 0.1; many examples have the very value of an end."""
    values = torch.repeat_interleave(torch.arange(5.0), torch.tensor([10, 30, 30, 20, 10]))
    counts = ScalarCondition("count", 1.9, 1.1, tuple(values.tolist()))

    def shares(text):
        drawn = parse_conditions([counts], {"count": text}, range(2000))["count"]
        return [((drawn - k).abs() < 0.01).double().mean().item() for k in range(5)]

    assert shares("1..2") == pytest.approx([0, 0.5, 0.5, 0, 0], abs=0.05)
    assert shares("0..1") == pytest.approx([0.25, 0.75, 0, 0, 0], abs=0.05)
    assert shares("3..") == pytest.approx([0, 0, 0, 2 / 3, 1 / 3], abs=0.05)
    assert shares("..") == pytest.approx([0.1, 0.3, 0.3, 0.2, 0.1], abs=0.05)
    assert shares("2..2") == [0, 0, 1, 0, 0]
    top = ScalarCondition("top", 1.0, 1.0, (0.0, 1.0, 2.0, 2.0))  # a third is 2
    assert (parse_conditions([top], {"top": "1..2"}, range(2000))["top"] == 2).double().mean().item() == pytest.approx(
        0.5, abs=0.05
    )
    assert parse_conditions([NUMBER], {"weight": "..0.5"}, [])["weight"].shape == (0,)


@pytest.mark.parametrize("text", ["heavy", "nan", "inf", "3..1", "1..x", "", "1e300", "0..1e39", "..nan"])
def test_what_is_no_number_is_refused_in_a_line(text):
    with pytest.raises(UserError, match="weight") as refusal:
        parse_conditions([NUMBER], {"weight": text}, range(2))
    assert "\n" not in str(refusal.value)


def test_values_outside_the_data_are_doubted_with_their_range():
    assert NUMBER.warning(torch.tensor([0.0, 1.0, math.nan])) is None
    doubt = NUMBER.warning(torch.tensor([-1.0, 1.0, 99.0]))
    assert doubt is not None
    assert "2 of 3" in doubt
    assert f"{QUANTILES[-1]:.4g} kg" in doubt


def test_null_is_nan_and_is_not_given():
    values = nulls([NUMBER, ClassCondition("label", ("a", "b"))], 2)
    assert values["weight"].isnan().all()
    assert not any_given([NUMBER], values)
    dropped = drop(
        [NUMBER], {"weight": torch.ones(4000)}, 0.3, torch.rand(4000, 1, generator=torch.Generator().manual_seed(0))
    )["weight"]
    assert dropped.isnan().double().mean().item() == pytest.approx(0.3, abs=0.03)
    assert NUMBER.caption(values["weight"][0]) == "any"
    assert NUMBER.caption(torch.tensor(2.5)) == "2.5"


def test_what_is_given_is_told_in_words_and_nothing_else():
    label = ClassCondition("label", ("a", "b"))
    values = {"label": torch.tensor([1, 2, 0]), "weight": torch.tensor([2.5, 7.0, math.nan])}
    assert captions_of([label, NUMBER], values, 3) == [{"label": "b", "weight": "2.5"}, {"weight": "7"}, {"label": "a"}]
    assert captions_of([NUMBER], nulls([NUMBER], 2), 2) == [{}, {}]
    assert captions_of([], {}, 0) == []


def test_log_likelihood_is_the_normal_density_in_the_values_unit():
    value = torch.tensor([0.3, 4.0, math.nan], dtype=torch.float64)
    output = torch.tensor([[0.1, -0.5], [1.2, 0.4], [0.0, 0.0]], dtype=torch.float64)
    expected = torch.distributions.Normal(1.0 + 2.0 * output[:, 0], 2.0 * output[:, 1].exp())
    found = NUMBER.head.log_likelihood(output, value)
    torch.testing.assert_close(found[:2], expected.log_prob(value.nan_to_num())[:2])
    assert found[2] == 0


def test_a_null_value_has_no_gradient_that_is_not_a_number():
    output = torch.zeros(2, 2, requires_grad=True)
    NUMBER.head.log_likelihood(output, torch.tensor([math.nan, 1.0])).sum().backward()
    assert output.grad.isfinite().all()


def test_the_best_constant_maximises_the_likelihood():
    values = torch.cat([torch.randn(500, generator=torch.Generator().manual_seed(0)) * 3 + 2, torch.tensor([math.nan])])
    best = NUMBER.head.best_constant(values)
    likelihood = NUMBER.head.log_likelihood(best.expand(501, -1), values).sum()
    for step in ([0.05, 0], [-0.05, 0], [0, 0.05], [0, -0.05]):
        other = NUMBER.head.log_likelihood((best + torch.tensor(step)).expand(501, -1), values).sum()
        assert other < likelihood
    measured = NUMBER.head.measures(best.expand(501, -1), values)["mae"]
    known = values[:-1].double()
    torch.testing.assert_close(measured.mean(), (known - known.mean()).abs().mean(), rtol=1e-5, atol=0)


def test_what_no_example_has_is_told_by_numbers_all_the_same():
    classes = ClassCondition("label", ("a", "b"))
    assert NUMBER.head.best_constant(torch.full((3,), math.nan)).isfinite().all()
    assert classes.head.best_constant(torch.full((3,), 2)).softmax(0).tolist() == pytest.approx([0.5, 0.5])


def test_conditions_of_one_name_and_unit_are_the_same():
    elsewhere = ScalarCondition("weight", 7.0, math.nan, (0.0, 9.0), "kg")
    assert elsewhere == NUMBER
    assert ScalarCondition("weight", 1.0, 2.0, QUANTILES, "g") != NUMBER
    assert ScalarCondition("height", 1.0, 2.0, QUANTILES, "kg") != NUMBER


def test_networks_are_told_numbers_and_null_apart():
    torch.manual_seed(0)
    told = Conditioning((NUMBER,), 32)
    log_snr = torch.zeros(4)
    with torch.no_grad():
        c = told(log_snr, {"weight": torch.tensor([0.0, 0.0, 1.0, math.nan])}).vector
    assert c.isfinite().all()
    torch.testing.assert_close(c[0], c[1])
    assert (c[0] - c[2]).abs().max() > 0.01
    assert (c[0] - c[3]).abs().max() > 0.01
    # null has gradients of its own, and none through the number
    told(log_snr[:1], {"weight": torch.tensor([math.nan])}).vector.sum().backward()
    embedding = told.embeddings["weight"]
    assert embedding.null.grad.abs().sum() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in told.parameters())
