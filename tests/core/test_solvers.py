import math
from functools import partial
from typing import get_args

import pytest
import torch

from diffcore.config import Grid
from diffcore.errors import UserError
from diffcore.grids import GRIDS, grid, karras, uniform_in_log_snr, uniform_in_time
from diffcore.levels import Level
from diffcore.noise import SampleNoise
from diffcore.sampling import levels_of, prior, sample
from diffcore.schedules import Cosine, Geometric, LinearBeta, Rectified, ZeroTerminal
from diffcore.solvers import Move, adams, ddim, ddpm, dpmpp_2m, euler, heun
from diffcore.spaces import Euclidean, Product
from diffcore.testing.oracles import gaussian, gaussian_flow, mixture

MEAN, STD = 0.7, 0.4
ONE = Euclidean((3,))
FIELDS = Product({"a": Euclidean((2, 3)), "b": Euclidean((1,))})
SCHEDULES = [Cosine(-8, 8), LinearBeta(), Geometric(0.02, 50), Rectified(0.01)]
ORDERS = {
    "ddim": (ddim(), 1, 200),
    "euler": (euler(), 1, 200),
    "heun": (heun(), 2, 200),
    "dpmpp-2m": (dpmpp_2m(), 2, 200),
    "dpmpp-3m": (adams(3, False, "log-snr"), 3, 150),
    "deis": (adams(3, False, "log-snr", "eps"), 3, 150),
    "unipc": (adams(3, True, "log-snr"), 4, 80),
    "adams": (adams(3), 4, 80),
    "adams-2": (adams(2, False), 2, 200),
}
"""Deterministic solvers: the step, its order, and a number of steps at which the order shows."""


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def flow_error(step, schedule, n, space=ONE):
    """Error on the way, at log-SNR 2, against the exact flow from the same start.

    At the clean end, where x0 no longer changes, the leading errors of some methods cancel: they seem of higher order.
    """
    low = schedule.log_snr(torch.tensor(1.0)).item()
    levels = levels_of(schedule, torch.linspace(low, 2.0, n + 1))[:-1]
    start = prior(space, SampleNoise(0, range(4)), 4, levels[0], "cpu", None)
    found = sample(gaussian(MEAN, STD), space, step, levels, indices=range(4))
    error = found - gaussian_flow(start, levels[0], levels[-1], MEAN, STD)
    values = [error] if isinstance(error, torch.Tensor) else list(error.values())
    return max(value.abs().max().item() for value in values)


@pytest.mark.parametrize("space", [ONE, FIELDS], ids=["tensor", "fields"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence_on_the_exact_flow(name, schedule, space):
    step, order, n = ORDERS[name]
    coarse, fine = (flow_error(step, schedule, n, space) for n in (n, 2 * n))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


def test_second_order_beats_first_on_a_mixture():
    """Against ten thousand steps, on a mixture, whose flow has no simple closed form."""
    centres = torch.tensor([[-1.0], [0.3], [1.2]])
    run = partial(sample, mixture(centres, 0.1), Euclidean((1,)), indices=range(16), seed=1)
    schedule = Cosine(-8, 8)
    truth = run(ddim(), levels_of(schedule, uniform_in_log_snr(schedule, 10_000)))
    errors = [
        (run(step, levels_of(schedule, uniform_in_log_snr(schedule, 40))) - truth).abs().median().item()
        for step in (ddim(), dpmpp_2m())
    ]
    assert errors[1] < errors[0] / 5


@pytest.mark.parametrize("variance", [0.0, 1.0])
@pytest.mark.parametrize("schedule", [Cosine(-8, 8), Geometric(0.02, 50)], ids=["cosine", "geometric"])
def test_ancestral_sampling_gives_the_data_s_moments(variance, schedule):
    levels = levels_of(schedule, uniform_in_log_snr(schedule, 2000))
    x = sample(gaussian(MEAN, STD), Euclidean((5000,)), ddpm(variance), levels, indices=range(8))
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() == pytest.approx(STD, rel=0.012)


def test_ddpm_with_the_larger_variance_is_exact_for_unit_gaussian_data():
    """Ho et al. 2020, section 3.2: sigma^2 = beta is optimal for x0 ~ N(0, 1): the step keeps N(0, 1) exactly."""
    now, then = Level(0.3, math.sqrt(1 - 0.09)), Level(0.8, 0.6)
    noise = torch.ones(1, 1)
    zero, one = (
        ddpm(1.0)(gaussian(0, 1), torch.full((1, 1), value), Move(now, then, lambda: noise)).item()
        for value in (0.0, 1.0)
    )
    assert (one - zero) ** 2 + zero**2 == pytest.approx(1)


def test_ddpm_with_the_smaller_variance_is_exact_for_a_point():
    """Its marginals are those of q(x_s | x_0 = c): mean alpha_s c, std sigma_s."""
    now, then, c = Level(0.3, math.sqrt(1 - 0.09)), Level(0.8, 0.6), 2.0
    step = ddpm(0.0)
    fresh = step(gaussian(c, 0), torch.zeros(1, 1), Move(now, then, lambda: torch.ones(1, 1))).item()
    still = step(gaussian(c, 0), torch.zeros(1, 1), Move(now, then, lambda: torch.zeros(1, 1))).item()
    slope = step(gaussian(c, 0), torch.ones(1, 1), Move(now, then, lambda: torch.zeros(1, 1))).item() - still
    assert still + slope * now.alpha * c == pytest.approx(then.alpha * c)
    assert (slope * now.sigma) ** 2 + (fresh - still) ** 2 == pytest.approx(then.sigma**2)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_ddim_with_eta_1_is_ancestral_sampling(schedule):
    levels = levels_of(schedule, uniform_in_time(schedule, 12))
    run = partial(sample, gaussian(MEAN, STD), ONE, levels=levels, indices=range(4))
    torch.testing.assert_close(run(step=ddim(1.0)), run(step=ddpm(0.0)))


@pytest.mark.parametrize("step", [dpmpp_2m(), ddim(0.5), ddpm(0.0), ddpm(1.0)], ids=["2m", "ddim", "ddpm-0", "ddpm-1"])
def test_the_schedule_s_scaling_does_not_change_samples(step):
    """On the same log-SNRs, every scaling of the state follows the same path from the same noise."""
    log_snr = torch.linspace(-6, 6, 15)
    found = []
    for schedule in (Cosine(), Rectified(), Geometric()):
        levels = levels_of(schedule, log_snr)
        found.append(sample(gaussian(MEAN, STD), ONE, step, levels, indices=range(3)))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_the_last_step_gives_x0_and_solvers_forget_between_calls():
    schedule = Cosine()
    levels = levels_of(schedule, karras(schedule, 5))
    step = dpmpp_2m()
    first = sample(gaussian(MEAN, STD), ONE, step, levels, indices=range(3))
    again = sample(gaussian(MEAN, STD), ONE, step, levels, indices=range(3))
    assert torch.equal(first, again)
    seen = []
    sample(gaussian(MEAN, STD), ONE, ddim(), levels, indices=range(3), watch=seen.append)
    assert len(seen) == 5
    last = sample(gaussian(MEAN, STD), ONE, ddim(), levels, indices=range(3))
    torch.testing.assert_close(last, seen[-1].prediction.x0)


def test_grids_are_what_their_formulas_say():
    schedule = Cosine(-8, 8)
    torch.testing.assert_close(schedule.time(uniform_in_time(schedule, 5)), torch.linspace(1, 0, 5))
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
        assert found[[0, -1]].tolist() == pytest.approx(ends)
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
        assert found[-1].item() == pytest.approx(base.log_snr(torch.tensor(0.0)).item())
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
    if n == 10_000:
        assert found[-1].item() == pytest.approx(2 * math.log(10_000), abs=1e-3)


def test_grids_that_do_not_descend_are_refused():
    class Rising:
        def log_snr(self, t):
            return 20 * t - 10

    for name in GRIDS:
        with pytest.raises(UserError, match="must rise"):
            grid(name, Rising(), 4)
        for steps in (0, -3):
            with pytest.raises(UserError, match=f"at least 1 step, not {steps}"):
                grid(name, Cosine(), steps)


@pytest.mark.parametrize(
    ("log_snrs", "words"),
    [
        ([], "at least one"),
        ([[0.0, 1.0]], "at least one"),
        ([0.0, math.nan], "number 2 of 2 of the grid is nan"),
        ([math.nan], "number 1 of 1 of the grid is nan"),
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


def test_one_step_is_one_evaluation():
    schedule = Cosine()
    seen = []
    x = sample(
        gaussian(MEAN, STD), ONE, dpmpp_2m(), levels_of(schedule, karras(schedule, 1)), indices=[0], watch=seen.append
    )
    assert len(seen) == 1
    torch.testing.assert_close(x, seen[0].prediction.x0)
