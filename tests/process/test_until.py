"""Schedules whose clean end has noise."""

import math

import pytest
import torch

from diffcore.process.schedules import (
    ByField,
    Cosine,
    Exploding,
    LogNormal,
    Rectified,
    Until,
    ddpm,
    ending_at,
    last_level,
)

SCHEDULES = (
    Cosine(),
    ddpm(1000, 1e-4, 0.02),
    LogNormal(-1.2, 1.2, 0.002, 80.0),
    Rectified(1e-3),
    Exploding(0.005, 150.0),
)


@pytest.mark.parametrize("base", SCHEDULES, ids=lambda base: type(base).__name__)
def test_it_is_the_base_from_the_last_log_snr_on(base):
    schedule = ending_at(base, 5.0)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert log_snr[0] == 5.0
    assert log_snr[-1] == base.log_snr(t[-1:])[0]
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(schedule.time(log_snr), t)
    # Equal shares of the time below the end have equal shares of that of the base.
    times = base.time(log_snr)
    torch.testing.assert_close(times.diff(), times.diff().mean().expand(100), rtol=1e-4, atol=1e-9)
    level, own = schedule.level(log_snr), base.level(log_snr)
    assert torch.equal(level.alpha, own.alpha)
    assert torch.equal(level.sigma, own.sigma)


def test_schedules_that_end_with_more_noise_and_those_without_an_end_are_unchanged():
    assert ending_at(Cosine(log_snr_max=3.0), 5.0) == Cosine(log_snr_max=3.0)
    assert ending_at(Cosine(), None) == Cosine()
    assert last_level(Cosine(), None) is None


def test_all_fields_end_alike():
    schedule = ending_at(ByField(Cosine(), {"a": 0.0, "b": -3.0}), 5.0)
    assert isinstance(schedule, ByField)
    assert schedule.base == Until(Cosine(), 5.0)
    level = last_level(schedule, 5.0)
    assert level.log_snr == pytest.approx(5.0)
    assert math.hypot(*level) == pytest.approx(1.0)
