"""Variations against their exact distribution: Gaussian data, noised to a level and drawn back."""

import math

import pytest
import torch
from tensordict import TensorDict

import diffcore as dc
from diffcore.denoising.denoiser import from_x0
from diffcore.errors import UserError
from diffcore.process.schedules import Cosine, Exploding, Rectified
from diffcore.sampling.inverse.strength import log_snr_at, varying
from diffcore.sampling.timesteps import tapered, through
from diffcore.states.spaces import Euclidean, Product, ZeroCentred
from diffcore.states.state import fields
from diffcore.testing.oracles import Correlated, gaussian
from tests.support.draws import draw

pytestmark = pytest.mark.usefixtures("float64")

SPACE = Euclidean((3,))
VALUES = torch.tensor([[1.5, -1.0, 2.0]], dtype=torch.float64)


def oracle():
    axes = torch.linalg.qr(draw(3, 3, seed=1)).Q
    return Correlated(0.3 * draw(3, seed=2), axes @ torch.diag(torch.tensor([2.0, 0.7, 0.1]).double()) @ axes.T)


def exact(data, strength, fresh):
    """Mean and covariance of variations: by p(x0 | x_s) with fresh noise, by the flow without."""
    alpha, sigma = math.cos(math.pi * strength / 2), math.sin(math.pi * strength / 2)
    noisy = alpha**2 * data.covariance + sigma**2 * torch.eye(3)
    if fresh:
        gain = torch.linalg.solve(noisy, alpha * data.covariance).T
        own = data.covariance - alpha * gain @ data.covariance
    else:
        values, vectors = torch.linalg.eigh(data.covariance)
        gain = vectors @ torch.diag((values / (alpha**2 * values + sigma**2)).sqrt()) @ vectors.T
        own = torch.zeros(3, 3)
    return data.mean + alpha * gain @ (VALUES[0] - data.mean), own + sigma**2 * gain @ gain.T


@pytest.mark.parametrize(
    ("solver", "schedule", "strength"),
    [("ddpm", "cosine", 0.3), ("ddpm", "rectified", 0.7), ("adams", "edm", 0.5), ("dpmpp-2m", "cosine", 0.7)],
)
def test_variations_have_the_exact_mean_and_covariance(solver, schedule, strength):
    data = oracle()
    n, steps = 4000, 100 if solver == "ddpm" else 40
    constraint = varying(VALUES, strength, SPACE)
    found = dc.sample(
        data, n, space=SPACE, steps=steps, solver=solver, schedule=schedule, constraint=constraint, batch_size=n
    )
    mean, covariance = exact(data, strength, solver == "ddpm")
    scale = covariance.diagonal().sqrt()
    assert ((found.mean(0) - mean).abs() < 4 * scale / math.sqrt(n) + 0.01).all()
    wrong = torch.cov(found.T) - covariance
    assert (wrong.abs() < 0.1 * torch.outer(scale, scale) + 0.005).all()


def test_a_strength_is_an_angle_whatever_the_schedule():
    for strength in (0.1, 0.5, 0.9):
        level = Cosine().level(torch.tensor(log_snr_at(strength), dtype=torch.float64))
        assert torch.atan2(level.sigma, level.alpha).item() == pytest.approx(math.pi / 2 * strength, rel=1e-12)
    assert (log_snr_at(0), log_snr_at(1)) == (math.inf, -math.inf)


@pytest.mark.parametrize("schedule", [Cosine(), Exploding(), Rectified()])
def test_strength_0_gives_the_values_back_and_strength_1_is_free(schedule):
    data = oracle()
    arguments = {"space": SPACE, "schedule": schedule, "steps": 6, "seed": 3}
    same = dc.sample(data, 2, constraint=varying(VALUES, 0.0, SPACE), **arguments)
    assert torch.equal(same, VALUES.expand(2, -1))
    free = dc.sample(data, 2, constraint=varying(VALUES, 1.0, SPACE), **arguments)
    assert torch.equal(free, dc.sample(data, 2, **arguments))
    nearly = dc.sample(data, 2, constraint=varying(VALUES, 1e-4, SPACE), **arguments)
    assert 0 < (nearly - VALUES).abs().max() < 1e-3


def test_each_sample_varies_its_own_values():
    values = torch.cat([VALUES, -VALUES])
    both = dc.sample(oracle(), 2, space=SPACE, steps=5, constraint=varying(values, 0.2, SPACE))
    one = dc.sample(oracle(), 2, space=SPACE, steps=5, constraint=varying(-VALUES, 0.2, SPACE))
    assert torch.equal(both[1], one[1])
    with pytest.raises(UserError, match="those of 2 samples, and sample 2 is to be drawn"):
        dc.sample(oracle(), 3, space=SPACE, steps=5, constraint=varying(values, 0.2, SPACE))


def test_a_grid_begins_at_the_strength_and_passes_the_stops():
    grid = tapered(Cosine(), 10).tolist()
    start = grid[4] + 0.1 * (grid[5] - grid[4])
    assert through(torch.tensor(grid), (), start).tolist() == [start, *grid[5:]]
    near = grid[4] + 0.8 * (grid[5] - grid[4])
    assert through(torch.tensor(grid), (), near).tolist() == [near, *grid[6:]]
    assert through(torch.tensor(grid), (near,)).tolist() == [*grid[:5], near, *grid[6:]]
    assert through(torch.tensor(grid), (), grid[0] - 1).tolist() == grid
    beyond = grid[-1] + 3
    assert through(torch.tensor(grid), (beyond,), grid[-1] + 1).tolist() == [grid[-1] + 1, beyond]


def test_half_known_entries_are_as_near_to_their_values_as_alone_where_entries_are_independent():
    strengths = torch.tensor([[1.0, 0.6, 0.3, 0.0]])
    space, values = Euclidean((4,)), torch.full((1, 4), 2.0)
    constraint = varying(values, strengths, space)
    n = 2000
    found = dc.sample(gaussian(0.0, 1.0), n, space=space, steps=150, solver="ddpm", constraint=constraint, batch_size=n)
    assert torch.equal(found[:, 3], values[0, 3].expand(n))
    for entry, strength in ((0, 1.0), (1, 0.6), (2, 0.3)):
        signal = math.cos(math.pi * strength / 2)
        assert found[:, entry].mean().item() == pytest.approx(2 * signal**2, abs=0.1)
        assert found[:, entry].var().item() == pytest.approx(1 - signal**4, rel=0.12)


@pytest.mark.parametrize("method", ["mmps", "repaint"])
def test_free_entries_agree_with_half_known_ones(method):
    """Two entries of correlation r: x1 is known until its level, x2 is free.

    Up to the level (alpha, sigma), x2 is drawn given x1 = v, and then both are drawn back: with x_s = alpha x0 + sigma
    eps, where x0 is (v, r v + sqrt(1 - r^2) eps), the mean is that of x0 given x_s at the mean of x_s. RePaint knows of
    x1 what the noise leaves, and x2 is drawn given the noisy x1, so the mean is alpha^2 (v, r v).
    """
    r, v, strength = 0.9, 2.0, 0.5
    covariance = torch.tensor([[1.0, r], [r, 1.0]])
    data, space = Correlated(torch.zeros(2), covariance), Euclidean((2,))
    constraint = varying(
        torch.tensor([[v, 0.0]]), torch.tensor([[strength, 1.0]]), space, method=method, resamplings=10
    )
    n = 2000
    found = dc.sample(data, n, space=space, steps=60, solver="ddpm", constraint=constraint, batch_size=n)
    alpha, sigma = math.cos(math.pi * strength / 2), math.sin(math.pi * strength / 2)
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2))
    expected = gain @ torch.tensor([alpha * v, alpha * r * v])
    if method == "repaint":
        expected = alpha**2 * torch.tensor([v, r * v])
    assert (found.mean(0) - expected).abs().max() < 0.08


def test_fields_have_strengths_of_their_own():
    space = Product({"a": ZeroCentred((4, 2)), "b": Euclidean((4, 1))})
    mask = torch.tensor([[True, True, True, False]])
    values = space.project(TensorDict({"a": draw(1, 4, 2, seed=1), "b": draw(1, 4, 1, seed=2)}, [1]), mask)
    constraint = varying(values, {"a": 0.5}, space, mask)
    found = dc.sample(gaussian(0.0, 1.0), 3, space=space, steps=5, constraint=constraint)
    assert torch.equal(found["b"], values["b"].expand(3, -1, -1))
    assert not torch.isclose(found["a"][:, :3], values["a"][:, :3]).any()
    assert (found["a"][:, 3] == 0).all()
    assert found["a"].sum(1).abs().max() < 1e-12
    whole = varying(values, 0.5, space, mask)
    assert (dc.sample(gaussian(0.0, 1.0), 1, space=space, steps=5, constraint=whole)["b"][0, 3] == 0).all()


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        (1.5, "`strength` 1.5: give a number from 0, which changes nothing, to 1"),
        (math.nan, "`strength` nan: give a number"),
        (torch.ones(1, 2), r"`strength` has the shape \[1, 2\]; it should be \[1, 3\]"),
        ({"places": 0.5}, "'places' is no field of these states; there are: no fields"),
    ],
)
def test_strengths_that_do_not_fit_are_refused(strength, message):
    with pytest.raises(UserError, match=message):
        varying(VALUES, strength, SPACE)


def test_variations_by_field_levels_have_the_noise_of_each_field():
    """With shifts by field, the level of strength s is that of the common clock, as in sampling."""
    space = Product({"a": Euclidean((2,)), "b": Euclidean((2,))})
    values = TensorDict({"a": torch.full((1, 2), 3.0), "b": torch.full((1, 2), 3.0)}, [1])
    schedule = dc.schedules.ByField(Cosine(), {"a": 0.0, "b": -4.0})

    def identity(x, level, conditions=None, mask=None):
        return from_x0(x, x, level)

    found = dc.sample(identity, 1, space=space, steps=1, schedule=schedule, constraint=varying(values, 0.1, space))
    off = {name: (value - 3).abs().max().item() for name, value in fields(found).items()}
    assert off["a"] < off["b"]
