"""The variational bound against closed forms, torch's divergences and brute force."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffcore.denoising.denoiser import from_x0
from diffcore.denoising.losses import weighted_loss
from diffcore.likelihood.bound import Bins, log_bin_probability, variational_bound
from diffcore.process.gaussian import perturb, posterior, transition
from diffcore.process.schedules import Cosine, Exploding, Rectified, Uniform
from diffcore.process.variances import log_ratio
from diffcore.sampling.loop import levels_of
from diffcore.sampling.timesteps import uniform_in_log_snr
from diffcore.states.level import Level
from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred
from diffcore.states.state import combine, map_fields
from diffcore.testing.oracles import gaussian
from tests.support.draws import draw

MEAN, STD = 0.3, 0.5
SCHEDULES = [Cosine(-8, 12), Rectified(0.01), Exploding(0.02, 50)]


def chain(schedule, steps, clean=True):
    levels = levels_of(schedule, uniform_in_log_snr(schedule, steps))
    return levels if clean else levels[:-1]


def spread(level):
    """Var(x0 | x) of N(MEAN, STD^2)."""
    return STD**2 * level.sigma**2 / (level.alpha**2 * STD**2 + level.sigma**2)


def ratio(now, then):
    return log_ratio(*(torch.tensor(level.log_snr, dtype=torch.float64) for level in (now, then))).item()


def optimal(x, level, then):
    """The fraction at which p(x_s | x_t) has the variance of the truth: e^(f R) = 1 + (SNR_s - SNR_t) Var(x0 | x)."""
    gained = math.exp(then.log_snr) - math.exp(level.log_snr)
    return math.log1p(gained * spread(level)) / ratio(level, then)


def with_optimal_variance(levels):
    """The oracle, with the variance of the true reverse step beside it."""
    following = dict(pairwise(levels))

    def denoise(x, level, conditions=None, mask=None):
        found = gaussian(MEAN, STD)(x, level, conditions, mask)
        then = following[level]
        fraction = 0.5 if then.sigma == 0 else optimal(x, level, then)
        return type(found)(x, level, found.output, "x0", map_fields(lambda f: torch.full_like(f, fraction), x))

    return denoise


def expected_terms(levels, variance):
    """Means over data and noise of the terms for N(MEAN, STD^2), per degree of freedom."""
    noisy = [level for level in levels if level.sigma]
    terms = [math.exp(noisy[0].log_snr) * (MEAN**2 + STD**2) / 2]
    for now, then in pairwise(noisy):
        excess = ratio(now, then) * (optimal(None, now, then) if variance is None else variance)
        gained = math.exp(then.log_snr) - math.exp(now.log_snr)
        terms.append((math.exp(-excess) * gained * spread(now) + math.exp(-excess) - 1 + excess) / 2)
    last = noisy[-1]
    decoder = last.sigma**2 / last.total**2
    return [*terms, spread(last) / (2 * decoder) + math.log(2 * math.pi * decoder) / 2]


@pytest.mark.parametrize("variance", [0.0, 0.4, 1.0, None], ids=["lower", "between", "upper", "learned"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_its_expectation_on_a_gaussian(schedule, variance):
    levels = chain(schedule, 12)
    denoise = with_optimal_variance(levels) if variance is None else gaussian(MEAN, STD)
    space = Euclidean((20_000,))
    x0 = MEAN + STD * draw(2, 20_000)
    found = variational_bound(denoise, x0, space, levels, variance=variance or 0.0)
    assert found.terms.shape == (13, 2)
    torch.testing.assert_close(
        found.terms.mean(1) / 20_000, torch.tensor(expected_terms(levels, variance)).double(), rtol=0.02, atol=1e-3
    )
    assert torch.equal(found.total, found.terms.sum(0))
    open_ended = variational_bound(denoise, x0, space, chain(schedule, 12, clean=False), variance=variance or 0.0)
    assert torch.equal(open_ended.terms, found.terms)


@pytest.mark.parametrize("variance", [0.0, 1.0])
def test_the_gap_to_the_density_shrinks_like_one_over_the_steps(variance):
    entropy = math.log(2 * math.pi * math.e * STD**2) / 2
    gaps = [sum(expected_terms(chain(Cosine(-14, 14), n), variance)) - entropy for n in (200, 400, 800)]
    for coarse, fine in pairwise(gaps):
        assert fine > 0
        assert coarse / fine == pytest.approx(2, abs=0.1)
    # One estimate of it, from data and noise.
    x0 = MEAN + STD * draw(1, 20_000)
    levels = chain(Cosine(-14, 14), 200)
    found = variational_bound(gaussian(MEAN, STD), x0, Euclidean((20_000,)), levels, variance=variance).total / 20_000
    density = Normal(MEAN, STD).log_prob(x0).mean()
    assert (found + density).item() == pytest.approx(gaps[0], rel=0.3)


def test_with_the_true_variance_a_gaussian_needs_few_steps():
    """Its reverse steps are Gaussian: the bound is the density, but for the ends of the chain."""
    entropy = math.log(2 * math.pi * math.e * STD**2) / 2
    levels = chain(Cosine(-14, 14), 5)
    assert sum(expected_terms(levels, None)) - entropy == pytest.approx(0, abs=1e-5)
    assert min(sum(expected_terms(levels, v)) for v in (0.0, 0.5, 1.0)) - entropy > 0.05


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_each_term_is_the_divergence_of_its_gaussians(schedule):
    """Against torch, from `posterior` and `transition`, with a fraction for each element."""
    levels = chain(schedule, 4)
    x0, fractions = draw(2, 5), torch.rand(2, 5, dtype=torch.float64)
    seen = []

    def denoise(x, level, conditions=None, mask=None):
        seen.append((x, level))
        return type(from_x0(x, x, level))(x, level, (0.3 * x).sin(), "x0", fractions)

    found = variational_bound(denoise, x0, Euclidean((5,)), levels, indices=[4, 9])
    assert len(seen) == 4
    first = levels[0]
    prior = kl_divergence(Normal(first.alpha * x0, first.sigma), Normal(0.0, torch.tensor(first.sigma)))
    torch.testing.assert_close(found.terms[0], prior.sum(1))
    for term, (x, now), then in zip(found.terms[1:-1], seen[:-1], levels[1:-1], strict=True):
        truth = posterior(then, now)
        upper = then.total / now.total * transition(then, now).std
        q = Normal(truth.of_x * x + truth.of_x0 * x0, truth.std)
        p = Normal(truth.of_x * x + truth.of_x0 * (0.3 * x).sin(), truth.std ** (1 - fractions) * upper**fractions)
        torch.testing.assert_close(term, kl_divergence(q, p).sum(1))
    x, last = seen[-1]
    decoder = Normal((0.3 * x).sin(), last.sigma / last.total)
    torch.testing.assert_close(found.terms[-1], -decoder.log_prob(x0).sum(1))
    draws = Draws.of(0, [4, 9])
    torch.testing.assert_close(seen[0][0], perturb(x0, draws.normal(("bound", 0), x0), first))
    torch.testing.assert_close(seen[1][0], perturb(x0, draws.normal(("bound", 1), x0), levels[1]))


def coordinates(state, count):
    """Of place and pairs in an orthonormal basis of the first `count` elements."""
    centre = torch.eye(count, dtype=torch.float64) - 1 / count
    basis = torch.linalg.eigh(centre)[1][:, 1:].T
    upper = torch.triu_indices(count, count, 1)
    return torch.cat([(basis @ state["place"][:, :count]).flatten(1), state["pairs"][:, upper[0], upper[1], 0]], 1)


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_in_spaces_of_fewer_freedoms_it_is_that_of_coordinates(learned):
    space = Product({"place": ZeroCentred((4, 2)), "pairs": SymmetricPairs((4, 4, 1))})
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    x0 = space.noise(map_fields(lambda f: draw(*f.shape), space.empty(2)), mask)
    raw = map_fields(lambda f: torch.rand(f.shape, dtype=torch.float64), x0)
    levels, seen = chain(Cosine(), 3), []

    def denoise(x, level, conditions=None, mask=None):
        guess = map_fields(lambda f: (f + 0.2).sin(), x)
        seen.append((x, space.project(guess, mask), level))
        return type(from_x0(x, x, level))(x, level, guess, "x0", raw if learned else None)

    found = variational_bound(denoise, x0, space, levels, mask=mask, variance=0.3).terms
    fraction = space.factors(raw, mask)
    for sample, count in ((0, 4), (1, 3)):
        data = coordinates(x0, count)[sample]
        freedoms = len(data)
        assert freedoms == space.degrees_of_freedom(x0, mask)[sample]
        f = torch.full((freedoms,), 0.3, dtype=torch.float64)
        if learned:
            upper = torch.triu_indices(count, count, 1)
            f = torch.cat(
                [
                    raw["place"][sample, :count].mean().expand(2 * (count - 1)),
                    (raw["pairs"][sample, upper[0], upper[1], 0] + raw["pairs"][sample, upper[1], upper[0], 0]) / 2,
                ]
            )
        for index in (0, 1):
            x, guess, now = seen[index]
            then = levels[index + 1]
            truth = posterior(then, now)
            largest = then.total / now.total * transition(then, now).std
            here, there = (
                truth.of_x * coordinates(x, count)[sample] + truth.of_x0 * v
                for v in (data, coordinates(guess, count)[sample])
            )
            q, p = Normal(here, truth.std), Normal(there, truth.std ** (1 - f) * largest**f)
            torch.testing.assert_close(found[index + 1, sample], kl_divergence(q, p).sum())
        x, guess, last = seen[2]
        decoder = Normal(coordinates(guess, count)[sample], last.sigma / last.total)
        torch.testing.assert_close(found[-1, sample], -decoder.log_prob(data).sum())
    # Noise that is scaled by such fractions stays in the space.
    noise = space.noise(map_fields(lambda f: draw(*f.shape, seed=3), x0), mask)
    scaled = map_fields(lambda n, f: n * 2.0**f, noise, fraction)
    torch.testing.assert_close(space.project(scaled, mask), scaled)


# The decoder


@pytest.mark.parametrize("mean", [-3.0, -0.999, 0.1, 0.4, 2.0])
@pytest.mark.parametrize("std", [1e-3, 0.05, 2.0])
def test_probabilities_of_all_bins_sum_to_one(mean, std):
    bins = Bins(2 / 255, -1, 1)
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    log_probabilities = log_bin_probability(values, torch.full_like(values, mean), std, bins)
    assert log_probabilities.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_probabilities.isfinite().all()


def test_a_bin_far_out_keeps_its_precision_on_both_sides():
    """At 40 std the mass is that of the tail, phi(a) / a (1 - 1 / a^2 + 3 / a^4) to 1e-6."""
    bins = Bins(0.5, -100, 100)
    for x in (40.25, -40.25):
        found = log_bin_probability(torch.tensor([x], dtype=torch.float64), torch.zeros(1).double(), 1.0, bins).item()
        tail = -(40.0**2) / 2 - math.log(2 * math.pi) / 2 - math.log(40) + math.log1p(-1 / 1600 + 3 / 1600**2)
        assert found == pytest.approx(tail, abs=1e-5)


def test_narrow_bins_are_the_density_times_their_width():
    x0, levels = 0.3 * draw(2, 6), chain(Cosine(-6, 6), 4)
    width = 1e-4
    density, mass = (
        variational_bound(gaussian(0.0, 0.3), x0, Euclidean((6,)), levels, bins=bins).total
        for bins in (None, Bins(width, -10, 10))
    )
    torch.testing.assert_close(mass, density - 6 * math.log(width), rtol=1e-6, atol=1e-6)
    centred = ZeroCentred((3, 2))
    x0 = centred.project(draw(1, 3, 2))
    with pytest.raises(ValueError, match="entries do not depend on each other"):
        variational_bound(gaussian(0.0, 0.3), x0, centred, levels, bins=Bins(0.1, -1, 1))


def test_bins_bound_the_probability_of_bits():
    """Data of two values, +-1: the exact denoiser's bound is above log 2, and close to it for a fine chain."""
    x0 = torch.where(draw(1, 4000) < 0, -1.0, 1.0).double()

    def denoise(x, level, conditions=None, mask=None):
        return from_x0((level.alpha * x / level.sigma**2).tanh(), x, level)

    gaps = [
        variational_bound(denoise, x0, Euclidean((4000,)), chain(Cosine(-10, 6), n), bins=Bins(2.0, -1, 1)).total / 4000
        - math.log(2)
        for n in (25, 100)
    ]
    assert 0 < gaps[1] < gaps[0] / 2.5 < 0.2


def test_the_noisiest_end_may_have_no_signal():
    levels = [Level(0.0, 1.0), Level(0.6, 0.8)]
    found = variational_bound(gaussian(MEAN, STD), draw(2, 3), Euclidean((3,)), levels).terms
    assert (found[0] == 0).all()
    assert found.isfinite().all()


def test_a_chain_without_noise_is_refused():
    with pytest.raises(ValueError, match="at least one level with noise"):
        variational_bound(gaussian(MEAN, STD), draw(2, 3), Euclidean((3,)), [Level(1.0, 0.0)])


def test_errors_outside_the_space_cost_nothing():
    space, levels = ZeroCentred((3, 2)), chain(Cosine(), 3)
    x0 = space.project(draw(2, 3, 2))
    shifted = [
        variational_bound(
            lambda x, level, c, m, by=by: from_x0(combine((0.5, x)) + by, x, level), x0, space, levels
        ).terms
        for by in (0.0, 3.0)
    ]
    torch.testing.assert_close(*shifted)


def test_the_nearest_middles_have_the_precision_of_the_state():
    bins = Bins(2 / 255, -1.0, 1.0)
    middles = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    torch.testing.assert_close(bins.nearest(middles + 0.003), middles, rtol=0, atol=1e-15)


def test_the_mean_loss_of_a_uniform_log_snr_is_the_bound_of_infinitely_many_steps():
    """For N(0, v), Var(x0 | x) e^lambda = v SNR / (1 + v SNR), whose integral over lambda is log(1 + v SNR)."""
    schedule, space = Uniform(-8, 12), Euclidean((1,))
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    level = schedule.level(schedule.log_snr(t))
    x0, noise = STD * draw(len(t), 1), draw(len(t), 1, seed=1)
    prediction = gaussian(0.0, STD)(perturb(x0, noise, level), level)
    loss = weighted_loss(prediction, x0, noise, space, "eps").mean().item()
    noisy, clean = (math.log1p(STD**2 * math.exp(end)) / 2 for end in (-8, 12))
    assert 20 / 2 * loss == pytest.approx(clean - noisy, rel=0.01)
    levels = levels_of(schedule, uniform_in_log_snr(schedule, 1000))
    bound = variational_bound(gaussian(0.0, STD), STD * draw(2, 3000), Euclidean((3000,)), levels)
    steps = bound.terms[1:-1].sum(0).mean().item() / 3000
    assert steps == pytest.approx(clean - noisy, rel=0.02)
