import math

import pytest
import torch
from tensordict import TensorDict

from diffcore.levels import CLEAN, Level
from diffcore.process import perturb, posterior, transition

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHA_BAR = torch.cumprod(1 - BETAS, 0)


def ddpm_level(i):
    return Level(math.sqrt(ALPHA_BAR[i]), math.sqrt(1 - ALPHA_BAR[i]))


@pytest.mark.parametrize("i", [1, 10, 500, 999])
def test_posterior_and_transition_are_ddpm_s(i):
    """Ho et al. 2020, eq. 2 and 6-7, with the published betas."""
    beta, bar, before = BETAS[i].item(), ALPHA_BAR[i].item(), ALPHA_BAR[i - 1].item()
    step = transition(ddpm_level(i - 1), ddpm_level(i))
    assert step.scale == pytest.approx(math.sqrt(1 - beta), rel=1e-9)
    assert step.std == pytest.approx(math.sqrt(beta), rel=1e-9)
    found = posterior(ddpm_level(i - 1), ddpm_level(i))
    assert found.of_x0 == pytest.approx(math.sqrt(before) * beta / (1 - bar), rel=1e-8)
    assert found.of_x == pytest.approx(math.sqrt(1 - beta) * (1 - before) / (1 - bar), rel=1e-8)
    assert found.std == pytest.approx(math.sqrt((1 - before) / (1 - bar) * beta), rel=1e-8)


def test_steps_compose():
    """Two Markov steps are the one step between their ends."""
    a, b, c = ddpm_level(100), ddpm_level(300), ddpm_level(700)
    first, second, whole = transition(a, b), transition(b, c), transition(a, c)
    assert first.scale * second.scale == pytest.approx(whole.scale)
    assert (second.scale * first.std) ** 2 + second.std**2 == pytest.approx(whole.std**2)


def test_posterior_keeps_the_marginal():
    """q(x_s | x_0) is q(x_s | x_t, x_0) averaged over q(x_t | x_0)."""
    s, t = ddpm_level(200), ddpm_level(600)
    found = posterior(s, t)
    assert found.of_x * t.alpha + found.of_x0 == pytest.approx(s.alpha)
    assert (found.of_x * t.sigma) ** 2 + found.std**2 == pytest.approx(s.sigma**2)


def test_posterior_of_the_clean_end_is_the_data():
    assert posterior(CLEAN, ddpm_level(10)) == (0.0, 1.0, 0.0)


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
