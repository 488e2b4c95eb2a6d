"""The oracles agree with each other, with autograd and with brute force."""

import math

import pytest
import torch
from tensordict import TensorDict

from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred
from diffcore.states.state import map_fields
from diffcore.testing.oracles import Correlated, Mixture, gaussian, largest_difference
from tests.support.draws import draw

LEVEL = Level(0.7, 0.5)


def test_a_mixture_of_one_and_a_correlated_gaussian_are_the_gaussian():
    x = draw(5, 3)
    expected = gaussian(0.3, 0.4)(x, LEVEL).x0
    one = Mixture(torch.full((1, 3), 0.3, dtype=torch.float64), 0.4)
    full = Correlated(torch.full((3,), 0.3, dtype=torch.float64), 0.16 * torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(one(x, LEVEL).x0, expected)
    torch.testing.assert_close(full(x, LEVEL).x0, expected)
    torch.testing.assert_close(one.log_density(x, LEVEL), full.log_density(x, LEVEL))


def test_states_of_float64_lose_no_digits_where_the_default_is_float32():
    """Against the formulas in Python's own floats."""
    assert torch.get_default_dtype() == torch.float32
    (alpha, sigma), std, x = LEVEL, 0.3, 1.2345678901234567
    centres, weights = (-1.1, 0.7), (0.3, 0.7)
    variance = alpha**2 * std**2 + sigma**2
    terms = [w * math.exp(-((x - alpha * c) ** 2) / (2 * variance)) for w, c in zip(weights, centres, strict=True)]
    means = [c + alpha * std**2 / variance * (x - alpha * c) for c in centres]
    expected = sum(term * mean for term, mean in zip(terms, means, strict=True)) / sum(terms)
    state = torch.tensor([[x]], dtype=torch.float64)
    column, shares = (torch.tensor(values, dtype=torch.float64) for values in (centres, weights))
    oracle = Mixture(column[:, None], std, weights=shares)
    assert oracle(state, LEVEL).x0.item() == pytest.approx(expected, rel=1e-14)
    density = math.log(sum(terms) / math.sqrt(2 * math.pi * variance))
    assert oracle.log_density(state, LEVEL).item() == pytest.approx(density, rel=1e-14)
    full = Correlated(column[:1], torch.tensor([[std**2]], dtype=torch.float64))
    assert full(state, LEVEL).x0.item() == pytest.approx(means[0], rel=1e-14)


def test_the_score_is_the_gradient_of_the_log_density():
    generator = draw(4, 4, seed=3)
    oracles = [
        Mixture(draw(3, 4, seed=1), 0.3, weights=torch.tensor([0.2, 0.5, 0.3])),
        Correlated(draw(4, seed=1), generator @ generator.T),
    ]
    for oracle in oracles:
        x = draw(6, 4, seed=2).requires_grad_()
        (expected,) = torch.autograd.grad(oracle.log_density(x, LEVEL).sum(), x)
        torch.testing.assert_close(oracle(x.detach(), LEVEL).score, expected)


def test_the_posterior_mean_is_that_of_many_weighted_draws():
    mixture = Mixture(
        torch.tensor([[-1.0], [0.5]], dtype=torch.float64), 0.3, weights=torch.tensor([0.3, 0.7], dtype=torch.float64)
    )
    grid = torch.linspace(-4, 4, 20001, dtype=torch.float64)[:, None]
    prior = mixture.log_density(grid, Level(1.0, 0.0)).exp()
    assert torch.trapezoid(prior, grid[:, 0]).item() == pytest.approx(1, abs=1e-9)
    for value in (-0.8, 0.1, 0.6):
        likelihood = torch.exp(-((value - LEVEL.alpha * grid[:, 0]) ** 2) / (2 * LEVEL.sigma**2))
        joint = prior * likelihood
        expected = torch.trapezoid(joint * grid[:, 0], grid[:, 0]) / torch.trapezoid(joint, grid[:, 0])
        found = mixture(torch.tensor([[value]], dtype=torch.float64), LEVEL).x0
        assert found.item() == pytest.approx(expected.item(), abs=1e-9)


def test_a_label_keeps_its_components_and_the_null_label_keeps_all():
    mixture = Mixture(draw(3, 2), 0.3, labels=torch.tensor([0, 0, 1]))
    only = Mixture(mixture.centres[:2], 0.3)
    x = draw(2, 2, seed=1)
    found = mixture(x, LEVEL, {"label": torch.tensor([0, 2])}).x0
    torch.testing.assert_close(found[0], only(x, LEVEL).x0[0])
    torch.testing.assert_close(found[1], mixture(x, LEVEL).x0[1])


def test_a_mixture_of_several_fields_with_masks_is_that_of_its_coordinates():
    """In coordinates of the space (an orthonormal basis) the mixture is a plain one."""
    space = Product({"place": ZeroCentred((4, 2)), "pairs": SymmetricPairs((4, 4, 1)), "kind": Euclidean((4, 3))})
    mask = torch.tensor([[True, True, True, False]]).expand(6, 4)

    def point(batch, seed):
        normal = map_fields(lambda f: draw(*f.shape, seed=seed), space.empty(batch))
        return space.noise(normal, mask[:1].expand(batch, 4))

    centres = point(3, 5)
    oracle = Mixture(centres, 0.3, space=space)
    x = point(6, 7)

    def coordinates(state):
        place = state["place"][:, :3]
        basis = torch.tensor([[1, -1, 0], [1, 1, -2]], dtype=torch.float64)
        basis = basis / basis.norm(dim=1, keepdim=True)
        upper = torch.triu_indices(3, 3, 1)
        pairs = state["pairs"][:, upper[0], upper[1], 0]
        return torch.cat([(basis @ place).flatten(1), pairs, state["kind"][:, :3].flatten(1)], 1)

    plain = Mixture(coordinates(centres), 0.3)
    torch.testing.assert_close(coordinates(oracle(x, LEVEL, mask=mask).x0), plain(coordinates(x), LEVEL).x0)
    torch.testing.assert_close(oracle.log_density(x, LEVEL, mask=mask), plain.log_density(coordinates(x), LEVEL))
    assert isinstance(oracle(x, LEVEL, mask=mask).x0, TensorDict)


def test_the_flow_of_a_correlated_gaussian_solves_its_ode():
    """d x / d phi = v on the circle alpha = cos phi, sigma = sin phi."""
    root = draw(3, 3)
    oracle = Correlated(draw(3, seed=1), root @ root.T)
    x, phi, h = draw(2, 3, seed=2), 0.9, 1e-4
    ends = [
        oracle.flow(x, Level(math.cos(phi), math.sin(phi)), Level(math.cos(p), math.sin(p))) for p in (phi - h, phi + h)
    ]
    slope = (ends[1] - ends[0]) / (2 * h)
    torch.testing.assert_close(slope, oracle(x, Level(math.cos(phi), math.sin(phi))).v, atol=1e-6, rtol=1e-6)


def test_the_posterior_given_a_measurement_is_bayes_rule():
    root = draw(3, 3)
    prior = Correlated(draw(3, seed=1), root @ root.T)
    matrix, measured = draw(2, 3, seed=2), draw(2, seed=3)
    posterior = prior.given(matrix, measured, 0.4)
    points = draw(5, 3, seed=4)
    clean = Level(1.0, 0.0)
    likelihood = -(points @ matrix.T - measured).square().sum(1) / (2 * 0.4**2)
    difference = prior.log_density(points, clean) + likelihood - posterior.log_density(points, clean)
    torch.testing.assert_close(difference, difference[:1].expand(5))
    assert largest_difference(points, points + 1) == 1
