"""Sampling that ends at a level with noise."""

import math

import pytest
import torch

from diffcore.process.schedules import Cosine, LogNormal, ending_at
from diffcore.sampling.grid_fitting import flow_of, starting_grids
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import adams, ddim, ddpm, dpmpp_2m
from diffcore.sampling.timesteps import GRIDS, grid
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean
from diffcore.testing.oracles import gaussian, gaussian_flow

LAST = 5.0
SPACE = Euclidean((3,))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("base", [Cosine(), LogNormal(-1.2, 1.2, 0.002, 80.0)], ids=["cosine", "edm"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_grid_has_n_steps_from_the_noisy_end_to_the_last_level(name, base, n):
    schedule = ending_at(base, LAST)
    points = grid(name, schedule, n, LAST)
    levels = levels_of(schedule, points, LAST)
    assert len(levels) == n + 1
    assert points[0].item() == pytest.approx(base.log_snr(torch.ones(1, dtype=torch.float64)).item())
    assert (points < LAST).all()
    assert levels[-1].log_snr == pytest.approx(LAST)
    assert torch.equal(points, grid(name, base, n, LAST))  # also of the schedule that does not end there


@pytest.mark.parametrize(("solver", "steps"), [(adams(), 12), (dpmpp_2m(), 40), (ddim(), 300), (ddpm(), 300)])
def test_samples_of_gaussian_data_have_the_variance_of_the_data_and_of_the_noise(solver, steps):
    schedule, mean, std = ending_at(Cosine(), LAST), 0.4, 0.7
    levels = levels_of(schedule, grid("log-snr", schedule, steps, LAST), LAST)
    x = sample(gaussian(mean, std), SPACE, solver, levels, indices=range(4000), keep_noise=True)
    x = x / levels[-1].alpha
    assert x.mean().item() == pytest.approx(mean, abs=0.03)
    assert x.std().item() == pytest.approx(math.sqrt(std**2 + math.exp(-LAST)), rel=0.02)


def test_accurate_trajectories_for_fitted_grids_end_there():
    schedule, mean, std = ending_at(Cosine(), LAST), 0.4, 0.7
    flow = flow_of(gaussian(mean, std), SPACE, schedule, indices=range(8), seed=0, last=LAST)
    levels = [schedule.level(torch.tensor(value, dtype=torch.float64)) for value in (-10.0, LAST)]
    first, last = (Level(level.alpha.item(), level.sigma.item()) for level in levels)
    torch.testing.assert_close(flow.end, gaussian_flow(flow.start, first, last, mean, std), atol=1e-5, rtol=1e-4)
    for points in starting_grids(schedule, 5, LAST):
        assert len(points) == 5
        assert (points.diff() > 0).all()
        assert points[-1] < LAST
    learned = grid("tapered", schedule, 6, LAST).requires_grad_()
    error = flow.errors(adams(), learned)
    torch.testing.assert_close(error.detach(), flow.errors(adams(), learned.detach()), atol=1e-5, rtol=1e-3)
    (gradient,) = torch.autograd.grad(error.sum(), learned)
    assert gradient.isfinite().all()
    assert gradient.any()
