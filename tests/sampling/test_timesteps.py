import math
from typing import get_args

import pytest
import torch

from diffcore.errors import UserError
from diffcore.names import Grid
from diffcore.process.schedules import Cosine, LinearBeta, Rectified, ZeroTerminal
from diffcore.sampling.loop import levels_of
from diffcore.sampling.timesteps import GRIDS, grid, karras, segments, tapered, uniform_in_log_snr, uniform_in_time

BEFORE_THE_END = ("tapered", "segments")
"""Grids whose last level lies before the clean end of the schedule."""

pytestmark = pytest.mark.usefixtures("float64")


def test_grids_are_what_their_formulas_say():
    schedule = Cosine(-8, 8)
    torch.testing.assert_close(schedule.time(uniform_in_time(schedule, 5)), torch.linspace(1, 0, 5))
    torch.testing.assert_close(schedule.time(segments(schedule, 4)), torch.tensor([1, 0.75, 0.5, 0.25]))
    torch.testing.assert_close(uniform_in_log_snr(schedule, 5), torch.linspace(-8, 8, 5))
    sigmas = torch.exp(-karras(schedule, 5) / 2)
    torch.testing.assert_close(sigmas ** (1 / 7), torch.linspace(math.exp(4 / 7), math.exp(-4 / 7), 5))
    assert tuple(GRIDS) == get_args(Grid)
    for name in GRIDS:
        assert (grid(name, schedule, 9).diff() > 0).all()
        assert grid(name, schedule, 1).shape == (1,)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("ends", [(-8, 8), (-30, 35), (-2, 1)], ids=str)
def test_grids_run_from_end_to_end_of_the_schedule(name, ends):
    for schedule in (Cosine(*ends), Cosine(*ends, shift=3)):
        found = grid(name, schedule, 7)
        assert found[0].item() == pytest.approx(ends[0])
        if name in BEFORE_THE_END:
            assert found[-1] <= ends[1] + 1e-9
        else:
            assert found[-1].item() == pytest.approx(ends[1])
        assert grid(name, schedule, 1).item() == pytest.approx(ends[0])


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("n", [1, 2, 3, 20, 1000])
@pytest.mark.parametrize(
    "base", [Cosine(), LinearBeta(), Cosine(-40, 20), Cosine(-3, -1)], ids=["cosine", "linear", "wide", "narrow"]
)
def test_grids_start_exactly_at_an_infinite_end(name, n, base):
    schedule = ZeroTerminal(base)
    found = grid(name, schedule, n)
    assert found.shape == (n,)
    assert found[0] == -math.inf
    assert (found.diff() > 0).all()
    assert found[1:].isfinite().all()
    if n > 1:
        end = base.log_snr(torch.tensor(0.0)).item()
        assert found[-1] <= end + 1e-9 if name in BEFORE_THE_END else found[-1].item() == pytest.approx(end)
        assert levels_of(schedule, found)[0] == (0, 1)


@pytest.mark.parametrize("name", ["karras", "log-snr"])
def test_beside_an_infinite_end_grids_are_those_of_the_finite_one_in_its_place(name):
    """-10, where alpha is negligible, and further out than a second-order solver's error as n grows."""
    schedule = ZeroTerminal(Cosine(-10, 10))
    torch.testing.assert_close(grid(name, schedule, 20)[1:], grid(name, Cosine(-10, 10), 20)[1:])
    low = -2 * math.log(10_000)
    torch.testing.assert_close(grid(name, schedule, 10_000)[1:], grid(name, Cosine(low, 10), 10_000)[1:])


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("n", [1, 2, 10, 10_000])
def test_grids_stop_short_of_an_infinite_clean_end(name, n):
    """Sampling goes to sigma = 0 by itself: straight lines without epsilon have both ends infinite."""
    found = grid(name, Rectified(0.0), n)
    assert found[0] == -math.inf
    assert found[1:].isfinite().all()
    assert (found.diff() > 0).all()
    if n == 10_000 and name != "tapered":
        assert found[-1].item() == pytest.approx(2 * math.log(10_000), abs=1e-3)


def test_grids_that_do_not_descend_are_refused():
    class Rising:
        def log_snr(self, t):
            return 20 * t - 10

    for name in GRIDS:
        with pytest.raises(UserError, match="must increase"):
            grid(name, Rising(), 4)
        for steps in (0, -3):
            with pytest.raises(UserError, match=f"at least 1 step, not {steps}"):
                grid(name, Cosine(), steps)


@pytest.mark.parametrize(
    ("log_snrs", "words"),
    [
        ([], "at least one"),
        ([[0.0, 1.0]], "at least one"),
        ([0.0, math.nan], "number 2 of 2 of the time grid is nan"),
        ([math.nan], "number 1 of 1 of the time grid is nan"),
        ([0.0, math.inf], "is inf"),
        ([1.0, 2.0, 2.0], "number 3 of 3, 2, follows 2"),
        ([3.0, 2.0], "number 2 of 2, 2, follows 3"),
        ([-math.inf, -math.inf, 2.0], "number 2 of 3, -inf, follows -inf"),
    ],
)
def test_levels_of_log_snrs_that_do_not_rise_are_refused(log_snrs, words):
    with pytest.raises(UserError, match=words) as caught:
        levels_of(Cosine(), torch.tensor(log_snrs))
    assert "\n" not in str(caught.value)


def test_the_tapered_grid_has_the_density_that_it_says():
    """Between neighbours, and from the last to s = 0, the integral of the density over log s is the same."""
    found = torch.exp(-tapered(Cosine(-12, 30), 40) / 2)
    log_s = torch.linspace(math.log(found[0]), math.log(found[-1]) - 40, 400_001)
    density = 1 / (1 + torch.exp(0.7 * (log_s - math.log(3.0))) + torch.exp(0.7 * (math.log(0.015) - log_s)))
    passed = torch.cat([torch.zeros(1), torch.cumulative_trapezoid(density, -log_s)])
    at = torch.stack([passed[(log_s - math.log(s)).abs().argmin()] for s in found])
    lengths = torch.cat([at.diff(), (passed[-1] - at[-1])[None]])
    torch.testing.assert_close(lengths, lengths.mean().expand(40), rtol=2e-3, atol=0)
