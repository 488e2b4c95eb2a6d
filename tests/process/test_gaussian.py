import math
from decimal import Decimal, localcontext
from itertools import pairwise

import pytest
import torch
from tensordict import TensorDict

from diffcore.process.gaussian import perturb, posterior, transition
from diffcore.process.schedules import (
    Cosine,
    Exploding,
    Laplace,
    LinearBeta,
    LogNormal,
    Rectified,
    Sigmoid,
    SubVariancePreserving,
    ZeroTerminal,
    ddpm,
)
from diffcore.process.sde import sde
from diffcore.sampling.loop import levels_of
from diffcore.sampling.timesteps import grid
from diffcore.states.level import CLEAN, Level

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


def chain(schedule, steps):
    """The schedule's levels at evenly spaced times, from the cleanest."""
    return levels_of(schedule, grid("time", schedule, steps))[-2::-1]


LEVELS = chain(ddpm(), 1000)
CHAINS = {"ddpm": LEVELS, "sub-vp": chain(SubVariancePreserving(), 100), "exploding": chain(Exploding(), 100)}


def exact_chain():
    """beta, abar and 1 - abar of Ho et al. 2020, as fractions rounded to 60 digits."""
    with localcontext() as context:
        context.prec = 60
        bar, rows = Decimal(1), []
        for beta in map(Decimal, BETAS.tolist()):
            bar *= 1 - beta
            rows.append((beta, bar, 1 - bar))
    return rows


def test_posterior_and_transition_are_ddpm_s_between_all_its_steps():
    """Ho et al. 2020, eq. 2 and 6-7; sigma_t^2 is beta (the forward step's) or beta-tilde (the posterior's)."""
    rows = exact_chain()
    for i in range(1, 1000):
        (beta, bar, rest), (_, bar_before, rest_before) = rows[i], rows[i - 1]
        step, found = transition(LEVELS[i - 1], LEVELS[i]), posterior(LEVELS[i - 1], LEVELS[i])
        expected = [
            (step.scale, (1 - beta).sqrt()),
            (step.std, beta.sqrt()),
            (found.of_x0, bar_before.sqrt() * beta / rest),
            (found.of_x, (1 - beta).sqrt() * rest_before / rest),
            (found.std, (rest_before / rest * beta).sqrt()),
            (LEVELS[i].alpha, bar.sqrt()),
            (LEVELS[i].sigma, rest.sqrt()),
        ]
        for value, truth in expected:
            assert value == pytest.approx(float(truth), rel=1e-12)


@pytest.mark.parametrize("levels", CHAINS.values(), ids=CHAINS.keys())
def test_the_chain_of_transitions_is_the_closed_form(levels):
    """Sohl-Dickstein et al. 2015: x_t walked step by step from x_s has the mean and the variance of one step."""
    first, *rest = levels
    scale, variance = 1.0, 0.0
    for clean, noisy in zip(levels, rest, strict=False):
        step = transition(clean, noisy)
        scale, variance = step.scale * scale, step.scale**2 * variance + step.std**2
        # From the data, through the first level, it is q(x_t | x_0).
        assert scale * first.alpha == pytest.approx(noisy.alpha, rel=1e-12)
        assert variance + (scale * first.sigma) ** 2 == pytest.approx(noisy.sigma**2, rel=1e-12)
        whole = transition(first, noisy)
        assert whole.scale == pytest.approx(scale, rel=1e-12)
        assert whole.std == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_a_walk_along_the_chain_has_the_moments_of_the_marginal():
    """Drawn transition by transition, of one data point."""
    generator = torch.Generator().manual_seed(0)
    levels = LEVELS[::50]
    x = torch.full((200_000,), 2.0, dtype=torch.float64)

    def noise():
        return torch.randn(len(x), generator=generator, dtype=torch.float64)

    x = levels[0].alpha * x + levels[0].sigma * noise()
    for clean, noisy in pairwise(levels):
        step = transition(clean, noisy)
        x = step.scale * x + step.std * noise()
    assert x.mean().item() == pytest.approx(2.0 * levels[-1].alpha, abs=5 * 0.0023)
    assert x.std().item() == pytest.approx(levels[-1].sigma, rel=5 * 0.0016)


@pytest.mark.parametrize("clean", [Level(0.6, 0.8), Level(1.0, 3.0), Level(1e-9, 1.0), CLEAN], ids=str)
def test_from_pure_noise_the_posterior_is_the_marginal(clean):
    """At alpha = 0 the state says nothing of the data: q(x_s | x_t, x_0) = q(x_s | x_0)."""
    noise = Level(0.0, 2.0)
    assert posterior(clean, noise) == (0.0, clean.alpha, clean.sigma)
    assert transition(clean, noise) == (0.0, 2.0)


T = torch.linspace(0, 1, 41, dtype=torch.float64)


@pytest.mark.parametrize("epsilon", [1e-3, 0.2])
def test_sde_of_linear_beta_is_song_s(epsilon):
    """Song et al. 2021: f = -beta / 2; g^2 = beta (VP, eq. 11) or beta (1 - exp(-2 B)) (sub-VP, eq. 12)."""
    s = epsilon + (1 - epsilon) * T
    beta = (1 - epsilon) * (0.1 + 19.9 * s)  # per unit of t
    integral = 0.1 * s + 19.9 * s**2 / 2
    for schedule, squared in (
        (LinearBeta(epsilon=epsilon), beta),
        (SubVariancePreserving(epsilon=epsilon), beta * -torch.expm1(-2 * integral)),
    ):
        found = sde(schedule, T)
        torch.testing.assert_close(found.drift, -beta / 2, rtol=1e-11, atol=0)
        torch.testing.assert_close(found.diffusion, squared.sqrt(), rtol=1e-12, atol=0)
        assert not found.drift.requires_grad
        assert not found.diffusion.requires_grad


def test_sde_of_the_geometric_ladder_is_song_s():
    """f = 0, g = sigma sqrt(2 log(sigma_max / sigma_min)). Song et al. 2021, eq. 30."""
    sigma = 0.01 * (50 / 0.01) ** T
    found = sde(Exploding(0.01, 50), T)
    assert (found.drift == 0).all()
    torch.testing.assert_close(found.diffusion, sigma * math.sqrt(2 * math.log(5000)), rtol=1e-12, atol=0)


def test_sde_of_straight_lines():
    """alpha = 1 - s, sigma = s: f = -1 / (1 - s), g^2 = 2 s / (1 - s)."""
    s = 0.01 + T * 0.98
    found = sde(Rectified(0.01), T)
    torch.testing.assert_close(found.drift, -0.98 / (1 - s), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.diffusion, (0.98 * 2 * s / (1 - s)).sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "schedule",
    [Cosine(shift=-1), Sigmoid(), Laplace(), LogNormal(), ddpm(), ZeroTerminal(LinearBeta()), ZeroTerminal(ddpm())],
    ids=lambda schedule: type(schedule).__name__,
)
def test_sde_keeps_the_marginals(schedule):
    """d alpha / dt = f alpha and d sigma^2 / dt = 2 f sigma^2 + g^2, against differences of the schedule's levels."""
    t, h = torch.tensor([0.1003, 0.3007, 0.7002, 0.9004], dtype=torch.float64), 1e-6
    drift, diffusion = sde(schedule, t)
    after, before, here = (schedule.level(schedule.log_snr(t + change)) for change in (h, -h, 0))
    rise = torch.as_tensor(after.alpha - before.alpha) / (2 * h)
    torch.testing.assert_close(drift * here.alpha, rise, rtol=1e-6, atol=1e-9)
    spread = (after.sigma**2 - before.sigma**2) / (2 * h)
    torch.testing.assert_close(2 * drift * here.sigma**2 + diffusion**2, spread, rtol=1e-6, atol=1e-9)


def test_steps_of_the_sde_are_steps_of_the_chain():
    """Over a short time a transition is 1 + f dt and g sqrt(dt): discretised, VP's SDE is DDPM."""
    schedule, dt = Cosine(), 1e-6
    t = torch.tensor([0.5 - dt / 2, 0.5, 0.5 + dt / 2], dtype=torch.float64)
    drift, diffusion = sde(schedule, t[1])
    clean, _, noisy = (
        Level(a, s) for a, s in zip(*(v.tolist() for v in schedule.level(schedule.log_snr(t))), strict=True)
    )
    step = transition(clean, noisy)
    assert (step.scale - 1) / dt == pytest.approx(drift.item(), rel=1e-5)
    assert step.std / math.sqrt(dt) == pytest.approx(diffusion.item(), rel=1e-5)


def test_sde_has_no_coefficients_at_zero_snr():
    with pytest.raises(ValueError, match="infinite"):
        sde(ZeroTerminal(Cosine()), torch.tensor([0.5, 1.0]))


def test_steps_compose():
    """Two Markov steps are the one step between their ends."""
    a, b, c = LEVELS[100], LEVELS[300], LEVELS[700]
    first, second, whole = transition(a, b), transition(b, c), transition(a, c)
    assert first.scale * second.scale == pytest.approx(whole.scale)
    assert (second.scale * first.std) ** 2 + second.std**2 == pytest.approx(whole.std**2)


def test_posterior_keeps_the_marginal():
    """q(x_s | x_0) is q(x_s | x_t, x_0) averaged over q(x_t | x_0)."""
    s, t = LEVELS[200], LEVELS[600]
    found = posterior(s, t)
    assert found.of_x * t.alpha + found.of_x0 == pytest.approx(s.alpha)
    assert (found.of_x * t.sigma) ** 2 + found.std**2 == pytest.approx(s.sigma**2)


def test_posterior_of_the_clean_end_is_the_data():
    assert posterior(CLEAN, LEVELS[10]) == (0.0, 1.0, 0.0)


def test_perturb_takes_a_level_a_sample_and_every_kind_of_state():
    level = Level(torch.tensor([0.6, 1.0]), torch.tensor([0.8, 0.0]))
    x0, noise = torch.full((2, 3, 4), 2.0), torch.full((2, 3, 4), 1.0)
    x = perturb(x0, noise, level)
    torch.testing.assert_close(x[0], torch.full((3, 4), 2.0))
    torch.testing.assert_close(x[1], x0[1])
    fields = [TensorDict({"a": state, "b": state[:, 0]}, batch_size=[2]) for state in (x0, noise)]
    found = perturb(*fields, level)
    torch.testing.assert_close(found["a"], x)
    torch.testing.assert_close(found["b"], x[:, 0])
