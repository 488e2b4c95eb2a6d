"""Guidance, inverse problems and the fitting of grids where fields have levels of their own."""

import math

import pytest
import torch

from diffcore.denoising.conditions import ClassCondition
from diffcore.process.schedules import ByField, Cosine
from diffcore.sampling import solvers
from diffcore.sampling.grid_fitting import flow_of, grid_of
from diffcore.sampling.guidance import autoguidance, classifier_free, energy, interval, rescale
from diffcore.sampling.inverse.editing import inpainting
from diffcore.sampling.loop import integrate, levels_of, sample
from diffcore.sampling.timesteps import tapered
from diffcore.states.level import CLEAN, FieldLevels, Level
from diffcore.states.spaces import Euclidean, Product
from diffcore.states.state import combine, named
from diffcore.testing.oracles import JointMixture, Mixture, largest_difference
from tests.support.joint import COUNT, JOINT, SHIFTED, SPACE, check_distribution, flat, normal

LEVELS = FieldLevels({"a": Level(0.6, 0.8), "b": Level(0.9, 0.3)})
GIVEN = FieldLevels({"a": Level(0.6, 0.8), "b": CLEAN})
CENTRES = named({"a": torch.tensor([[-1.0], [2.0]]), "b": torch.tensor([[0.5, 1.0], [-1.0, 0.2]])})
LABELLED = Mixture(CENTRES, 0.4, labels=torch.tensor([0, 1]), space=SPACE)
CLASSES = (ClassCondition("label", ("one", "two")),)
X = normal(torch.Generator().manual_seed(3), 4)


@pytest.mark.parametrize("level", [LEVELS, GIVEN], ids=["noisy", "given"])
def test_the_passes_of_classifier_free_guidance_share_the_levels(level):
    conditions = {"label": torch.tensor([0, 1, 2, 0])}
    none = {"label": torch.full((4,), 2)}
    found = classifier_free(LABELLED, CLASSES, 3.0)(X, level, conditions)
    with_, without = (LABELLED(X, level, each).x0 for each in (conditions, none))
    expected = combine((1.0, without), (3.0, combine((1.0, with_), (-1.0, without))))
    assert largest_difference(found.output, expected) < 1e-5
    mixed = autoguidance(LABELLED, classifier_free(LABELLED, CLASSES, 0.0), 2.0)(X, level, conditions)
    again = combine((2.0, with_), (-1.0, without))
    assert largest_difference(mixed.output, again) < 1e-5
    assert (
        rescale(classifier_free(LABELLED, CLASSES, 3.0), LABELLED, SPACE, 0.7)(X, level, conditions)
        .x0["a"]
        .isfinite()
        .all()
    )


def test_levels_of_tensors_are_joined_by_field():
    levels = FieldLevels({"a": Level(torch.rand(4), torch.rand(4)), "b": Level(0.5, 0.7)})
    conditions = {"label": torch.tensor([0, 1, 2, 0])}
    found = classifier_free(LABELLED, CLASSES, 3.0)(X, levels, conditions)
    for row in range(4):
        own = FieldLevels({"a": levels.of["a"].map(lambda s, row=row: s[row : row + 1]), "b": levels.of["b"]})
        alone = classifier_free(LABELLED, CLASSES, 3.0)(
            X[row : row + 1], own, {"label": conditions["label"][row : row + 1]}
        )
        assert largest_difference(alone.output, found.output[row : row + 1]) < 1e-5


@pytest.mark.parametrize("level", [LEVELS, GIVEN, FieldLevels({"a": Level(0.0, 1.0), "b": Level(0.5, 0.9)})])
def test_a_gaussian_factor_moves_the_prediction_as_the_product_of_densities(level):
    """h_t(x) = E[exp(g . x0) | x] of a Gaussian is exact, with g on both fields: x0 moves by C_{x0|x} g."""
    covariance = torch.tensor([[0.5, 0.2, 0.1], [0.2, 0.8, -0.3], [0.1, -0.3, 0.6]]).double()
    gaussian = JointMixture(named({"a": torch.zeros(1, 1), "b": torch.zeros(1, 2)}), covariance[None], torch.ones(1))
    tilt = torch.tensor([0.7, -0.4, 0.3]).double()
    tilted = JointMixture(
        named({"a": (covariance @ tilt)[None, :1], "b": (covariance @ tilt)[None, 1:]}), covariance[None], torch.ones(1)
    )

    def log_weight(x, level, conditions, mask):
        return tilted.log_density(x, level) - gaussian.log_density(x, level)

    x = named({name: value.double() for name, value in X.items()})
    found = energy(gaussian, SPACE, log_weight)(x, level)
    expected = tilted(x, level).x0
    noisy = [name for name, own in level.of.items() if own.alpha > 0]
    for name in noisy:
        torch.testing.assert_close(found.x0[name], expected[name], rtol=1e-6, atol=1e-6)


def test_each_field_is_guided_where_its_own_level_is_inside_the_interval():
    counts = []

    def counted(name, shift):
        def denoise(x, level, conditions=None, mask=None):
            counts.append(name)
            prediction = LABELLED(x, level)
            return type(prediction)(x, level, combine((1.0, prediction.output), (shift, 0 * x + 1)), "x0")

        return denoise

    chosen = interval(counted("guided", 1.0), counted("plain", 0.0), -2.0, 0.0)  # a is at -0.58, b at 2.2
    plain = LABELLED(X, LEVELS).x0
    found = chosen(X, LEVELS).x0
    torch.testing.assert_close(found["a"], plain["a"] + 1)
    torch.testing.assert_close(found["b"], plain["b"])
    assert sorted(counts) == ["guided", "plain"]
    chosen(X, GIVEN)
    assert counts[2:] == ["guided"]


@pytest.mark.parametrize("schedule", [SHIFTED, ByField(Cosine(), {"a": -3.0, "b": 0.0})], ids=["b last", "a last"])
def test_posterior_sampling_of_gaussian_data_is_exact_with_levels_by_field(schedule):
    """All of b is measured, so a is drawn from its distribution given b."""
    gaussian = JointMixture(JOINT.means[1:], JOINT.covariances[1:], torch.ones(1).double())
    known = named({"a": torch.zeros(1, 1, dtype=torch.bool), "b": torch.ones(1, 2, dtype=torch.bool)})
    point = torch.tensor([0.8, 0.1])
    constraint = inpainting(named({"a": torch.zeros(1, 1), "b": point[None]}), known, SPACE, "mmps")
    denoise, step = constraint(gaussian, solvers.adams(), range(COUNT))
    path = levels_of(schedule, tapered(Cosine(), 30))
    with torch.no_grad():
        drawn = integrate(step, denoise, normal(torch.Generator().manual_seed(1)), path, None)
    assert (drawn["b"] == point).all()
    mean, covariance = gaussian.given("b", point).moments()
    assert abs(drawn["a"].mean() - mean) < 5 / COUNT**0.5 * covariance.sqrt()
    assert abs(drawn["a"].var() / covariance - 1) < 0.15


def test_repaint_draws_a_known_field_again_at_its_own_level():
    """After each step, the known field is at its own level, and the other comes to agree with it."""
    known = named({"a": torch.zeros(1, 1, dtype=torch.bool), "b": torch.ones(1, 2, dtype=torch.bool)})
    point = torch.tensor([0.8, 0.1])
    constraint = inpainting(named({"a": torch.zeros(1, 1), "b": point[None]}), known, SPACE, "repaint", resamplings=6)
    denoise, step = constraint(JOINT, solvers.ddpm(), range(COUNT))
    generator = torch.Generator().manual_seed(1)
    path = levels_of(ByField(Cosine(), {"a": -3.0, "b": 0.0}), tapered(Cosine(), 40))
    found = []
    drawn = integrate(
        step, denoise, normal(generator), path, lambda: normal(generator), lambda _, x: found.append(x["b"].clone())
    )
    for x, level in zip(found, path[1:], strict=True):
        own = level.of["b"] if isinstance(level, FieldLevels) else level
        error = 5 / COUNT**0.5 * own.sigma + 1e-6
        assert ((x.mean(0) - own.alpha * point).abs() < error).all()
    mean, covariance = JOINT.given("b", point).moments()
    assert abs(drawn["a"].mean() - mean) < 0.4 * covariance.sqrt()


def test_the_errors_of_a_grid_have_gradients_with_levels_by_field():
    """The derivative of the error with respect to a level is its difference quotient."""
    flow = flow_of(JOINT, SPACE, SHIFTED, indices=range(3), seed=0, accurate=60)
    step = solvers.adams()
    spacings = torch.tensor([2.0, 3.0, 4.0]).double().log().requires_grad_()
    first = torch.tensor(-10.0).double()

    def score(values):
        return flow.errors(step, grid_of(first, first, values)).double().sum()

    (gradient,) = torch.autograd.grad(score(spacings), spacings)
    for index in range(3):
        moved = torch.zeros(3).double()
        moved[index] = 1e-3
        with torch.no_grad():
            quotient = (score(spacings + moved) - score(spacings - moved)) / 2e-3
        assert gradient[index].item() == pytest.approx(quotient.item(), rel=2e-2, abs=1e-3)


def test_a_solver_of_a_plugin_needs_no_code_for_levels_by_field():
    """An own solver, which knows one level of floats, draws the joint distribution with shifted levels."""

    def own(evaluate, x, move):
        prediction = evaluate(x, move.now)
        kept = math.sqrt(max(move.next.sigma, 0.0) ** 2)
        return combine((move.next.alpha, prediction.x0), (kept, prediction.eps))

    generator = torch.Generator().manual_seed(1)
    path = levels_of(SHIFTED, tapered(Cosine(), 150))
    check_distribution(flat(integrate(own, JOINT, normal(generator), path, None)), JOINT, 0.05)


def test_samples_do_not_depend_on_the_batch_with_levels_by_field():
    path = levels_of(SHIFTED, tapered(Cosine(), 5))
    space = Product(dict(SPACE.parts))
    together = sample(JOINT, space, solvers.ddpm(), path, indices=range(4), seed=5)
    alone = sample(JOINT, space, solvers.ddpm(), path, indices=[2], seed=5)
    assert largest_difference(alone, together[2:3]) < 1e-5
    assert isinstance(space.parts["a"], Euclidean)
