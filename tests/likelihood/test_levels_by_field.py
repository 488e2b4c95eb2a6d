"""Likelihoods and bounds with levels by field are those of the joint mixture in closed form."""

import math
from itertools import pairwise

import pytest
import torch

from diffcore.errors import UserError
from diffcore.likelihood.bound import variational_bound
from diffcore.likelihood.flow import log_likelihood
from diffcore.process.gaussian import posterior
from diffcore.process.schedules import Cosine
from diffcore.sampling.loop import levels_of, with_given
from diffcore.sampling.timesteps import uniform_in_log_snr
from diffcore.states.level import CLEAN, FieldLevels
from diffcore.states.state import named
from diffcore.testing.oracles import JointMixture
from tests.support.joint import JOINT, SHIFTED, SPACE

X0 = named(
    {"a": torch.tensor([[-1.2], [0.4], [1.5]]).double(), "b": torch.tensor([[-1, 0.3], [0.2, 0.5], [1, -1]]).double()}
)
WIDE = (-24.0, 20.0)


@pytest.mark.parametrize("how", [{"steps": 40}, {"rtol": 1e-6, "atol": 1e-6}], ids=["fixed", "adaptive"])
def test_the_likelihood_with_shifted_levels_is_the_density_of_the_joint(how):
    found = log_likelihood(JOINT, X0, SPACE, SHIFTED, log_snrs=WIDE, **how)
    assert (found - JOINT.log_density(X0)).abs().max() < 3e-5


@pytest.mark.parametrize(("known", "other"), [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("schedule", [Cosine(), SHIFTED], ids=["shared", "shifted"])
def test_the_likelihood_given_a_field_is_the_conditional_density(known, other, schedule):
    found = log_likelihood(JOINT, X0, SPACE, schedule, log_snrs=WIDE, steps=40, given=[known])
    for index in range(3):
        conditional = JOINT.given(known, X0[known][index])
        expected = conditional.log_density(named({other: X0[other][index : index + 1]}))
        assert abs(found[index].item() - expected.item()) < 3e-5


def test_densities_given_each_other_make_the_joint_density():
    """log p(a, b) = log p(b) + log p(a | b), where p(b) is left when `a` is integrated out."""
    alone = JointMixture(named({"b": JOINT.means["b"]}), JOINT.covariances[:, 1:, 1:], JOINT.weights)
    given_b = log_likelihood(JOINT, X0, SPACE, SHIFTED, log_snrs=WIDE, steps=40, given=["b"])
    together = log_likelihood(JOINT, X0, SPACE, SHIFTED, log_snrs=WIDE, steps=40)
    assert (together - given_b - alone.log_density(named({"b": X0["b"]}))).abs().max() < 5e-5


def test_random_directions_give_the_likelihood_on_average():
    x0 = X0[:1].expand(400)
    found = log_likelihood(
        JOINT, x0, SPACE, SHIFTED, log_snrs=WIDE, steps=15, divergence="hutchinson", given=["a"], indices=range(400)
    )
    exact = log_likelihood(JOINT, X0[:1], SPACE, SHIFTED, log_snrs=WIDE, steps=15, given=["a"])
    assert abs(found.mean() - exact) < 4 * found.std() / 20 + 1e-6


def test_wrong_given_fields_are_refused():
    with pytest.raises(UserError, match="'c', which is not a field; there are: a, b"):
        log_likelihood(JOINT, X0, SPACE, SHIFTED, given=["c"])
    with pytest.raises(UserError, match="all fields are given"):
        log_likelihood(JOINT, X0, SPACE, SHIFTED, given=["a", "b"])


def test_the_bound_of_independent_gaussian_fields_is_the_sum_of_their_bounds():
    """Each field has its own chain; with one Gaussian, the expected bound of a field follows from its variance."""
    variances = torch.tensor([0.5, 2.0, 0.1]).double()
    independent = JointMixture(
        named({"a": torch.zeros(1, 1).double(), "b": torch.zeros(1, 2).double()}),
        torch.diag_embed(variances)[None],
        torch.ones(1).double(),
    )
    count = 4000
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(count, 3, generator=generator, dtype=torch.float64) * variances.sqrt()
    x0 = named({"a": draws[:, :1], "b": draws[:, 1:]})
    path = levels_of(SHIFTED, uniform_in_log_snr(Cosine(), 6))
    found = variational_bound(independent, x0, SPACE, path).total
    expected = sum(
        expected_bound(variances[column].item(), [level.of[name] for level in path[:-1]])
        for column, name in enumerate(["a", "b", "b"])
    )
    assert abs(found.mean() - expected) < 4 * found.std() / count**0.5
    given = variational_bound(independent, x0, SPACE, [with_given(level, ["a"], SPACE) for level in path]).total
    only_b = sum(expected_bound(v, [level.of["b"] for level in path[:-1]]) for v in variances[1:].tolist())
    assert abs(given.mean() - only_b) < 4 * given.std() / count**0.5


def expected_bound(variance, levels):
    """The expected bound of N(0, variance) in one dimension: sums of Kullback-Leibler divergences of Gaussians."""

    def error(level):
        """E (x0_hat - x0)^2."""
        return variance * level.sigma**2 / (level.alpha**2 * variance + level.sigma**2)

    total = math.exp(levels[0].log_snr) * variance / 2
    for now, cleaner in pairwise(levels):
        step = posterior(cleaner, now)
        total += step.of_x0**2 * error(now) / (2 * step.std**2)
    std = levels[-1].sigma / levels[-1].total
    return total + error(levels[-1]) / (2 * std**2) + math.log(2 * math.pi * std**2) / 2


def test_the_density_of_noisy_states_by_field_integrates_to_one_field():
    """With `b` almost all noise, the joint density is that of `a` times that of the noise."""
    level = FieldLevels({"a": CLEAN, "b": levels_of(Cosine(-40, 10), torch.tensor([-40.0]))[0]})
    alone = JointMixture(named({"a": JOINT.means["a"]}), JOINT.covariances[:, :1, :1], JOINT.weights)
    noise = torch.distributions.Normal(0.0, 1.0).log_prob(X0["b"]).sum(1)
    expected = alone.log_density(named({"a": X0["a"]})) + noise
    assert (JOINT.log_density(X0, level) - expected).abs().max() < 1e-6
