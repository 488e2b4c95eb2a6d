import math

import pytest
import torch

from diffcore.levels import CLEAN, Level
from diffcore.schedules import Cosine, Geometric, LinearBeta, Rectified

SCHEDULES = [Cosine(), Cosine(-9, 8, -2), LinearBeta(), Geometric(), Rectified()]
T = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_time_inverts_log_snr_and_log_snr_falls(schedule):
    log_snr = schedule.log_snr(T)
    torch.testing.assert_close(schedule.time(log_snr), T, rtol=0, atol=1e-9)
    assert (log_snr.diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_level_has_the_log_snr_it_was_asked_for(schedule):
    log_snr = schedule.log_snr(T)
    torch.testing.assert_close(schedule.level(log_snr).log_snr, log_snr, rtol=0, atol=1e-9)


def test_cosine_is_cosine_and_ends_at_its_bounds():
    schedule = Cosine(-10, 10)
    torch.testing.assert_close(schedule.log_snr(torch.tensor([0.0, 1.0])), torch.tensor([10.0, -10.0]).double())
    low, high = math.atan(math.exp(-5)), math.atan(math.exp(5))
    angle = low + T * (high - low)
    level = schedule.level(schedule.log_snr(T))
    torch.testing.assert_close(level.alpha, angle.cos())
    torch.testing.assert_close(level.sigma, angle.sin())


def test_a_shifted_cosine_keeps_its_ends_and_moves_what_lies_between():
    schedule = Cosine(-10, 10, shift=-2)
    found = schedule.log_snr(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(found[[0, 2]], torch.tensor([10.0, -10.0]).double())
    # The middle of time is the middle of the angle.
    angles = [math.atan(math.exp((-2 - end) / 2)) for end in (10, -10)]
    assert found[1].item() == pytest.approx(-2 - 2 * math.log(math.tan(sum(angles) / 2)))
    assert found[1].item() == pytest.approx(-2, abs=0.05)


def test_linear_is_the_limit_of_ddpm_betas():
    """alpha_bar of T discrete betas, beta_i = (b0 + (i/T)(b1 - b0)) / T, tends to the closed form."""
    n = 100_000
    betas = torch.linspace(0.1, 20, n, dtype=torch.float64) / n
    alpha_bar = torch.cumprod(1 - betas, 0)
    schedule = LinearBeta(epsilon=1e-12)
    level = schedule.level(schedule.log_snr(torch.arange(1, n + 1, dtype=torch.float64) / n))
    # One minus alpha^2 agrees too, where float32 tables lose it.
    torch.testing.assert_close(level.alpha**2, alpha_bar, rtol=3e-3, atol=1e-9)
    torch.testing.assert_close((level.sigma**2)[50:], (1 - alpha_bar)[50:], rtol=3e-3, atol=0)


def test_geometric_and_rectified_scales():
    level = Geometric(0.01, 100).level(Geometric(0.01, 100).log_snr(torch.tensor([0.5])))
    torch.testing.assert_close(level.sigma, torch.tensor([1.0]).double())
    assert level.alpha.item() == 1
    level = Rectified(0).level(Rectified(0).log_snr(torch.tensor([0.25]).double()))
    torch.testing.assert_close(torch.stack(list(level)).flatten(), torch.tensor([0.75, 0.25]).double())


def test_levels_keep_precision_at_both_ends():
    for log_snr in (-60.0, 60.0):
        level = Cosine().level(torch.tensor(log_snr, dtype=torch.float64))
        small = min(level.alpha.item(), level.sigma.item())
        assert small == pytest.approx(math.exp(-30), rel=1e-12)


def test_ends_of_levels():
    assert CLEAN.log_snr == math.inf
    assert Level(0.0, 1.0).log_snr == -math.inf
    assert Level(3.0, 4.0).total == 5
    assert Level(torch.tensor([3.0]), torch.tensor([4.0])).total.item() == 5
