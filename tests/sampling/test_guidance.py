"""Guidance against closed forms: what each of them should make of data whose distribution is known."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from diffcore.denoising.conditions import ClassCondition
from diffcore.denoising.denoiser import Denoiser, Prediction, from_eps, from_v, from_x0
from diffcore.process.schedules import Cosine, Exploding
from diffcore.sampling.guidance import (
    autoguidance,
    classifier_free,
    composed,
    energy,
    interval,
    log_snr_interval,
    rescale,
)
from diffcore.sampling.guidance.joint_batch import cache_last
from diffcore.sampling.guidance.rescaled import deviation
from diffcore.sampling.loop import levels_of, prior, sample
from diffcore.sampling.solvers import adams, ddim, ddpm, dpmpp_2m, heun
from diffcore.sampling.timesteps import grid, uniform_in_log_snr
from diffcore.states.level import Level
from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred
from diffcore.states.state import combine, concatenate, fields, map_fields
from diffcore.testing.oracles import Mixture, gaussian, gaussian_flow, largest_difference
from tests.support.draws import draw

LEVEL = Level(0.7, 0.5)
LABEL = ClassCondition("label", ("a", "b"))
FIELDS = Product({"place": ZeroCentred((4, 2)), "pairs": SymmetricPairs((4, 4, 1)), "kind": Euclidean((4, 3))})
MASK = torch.tensor([[True, True, True, False], [True, True, True, True]])


pytestmark = pytest.mark.usefixtures("float64")


def point(space, batch, seed, mask=None):
    return space.noise(map_fields(lambda f: draw(*f.shape, seed=seed), space.empty(batch)), mask)


def masks(batch):
    return MASK.repeat((batch + 1) // 2, 1)[:batch]


def labelled(space=FIELDS, std=0.3):
    """A mixture of three points of several fields; the first two have label 0, the third 1; 2 is null."""
    weights = torch.tensor([0.2, 0.5, 0.3])
    return Mixture(point(space, 3, 5), std, weights, torch.tensor([0, 0, 1]), space)


def projected(denoise, space):
    """As sampling uses a denoiser: what is predicted is brought to the space."""

    def inside(x, level, conditions=None, mask=None):
        prediction = denoise(x, level, conditions, mask)
        return replace(prediction, output=space.project(prediction.output, mask))

    return inside


def viewed(denoise, view):
    """The same denoiser with its output in another view, and a variance to carry along."""
    make = {"x0": from_x0, "eps": from_eps, "v": from_v}[view]

    def other(x, level, conditions=None, mask=None):
        prediction = make(getattr(denoise(x, level, conditions, mask), view), x, level)
        return replace(prediction, variance=map_fields(lambda f: 0.25 * torch.ones_like(f), x))

    return other


def posterior(oracle):
    """log p(c | x_t), noise-aware and exact."""

    def log_weight(x, level, conditions, mask):
        return oracle.log_density(x, level, conditions, mask) - oracle.log_density(x, level, None, mask)

    return log_weight


# Gradients of spaces


@pytest.mark.parametrize("space", [*FIELDS.parts.values(), FIELDS], ids=lambda s: type(s).__name__)
def test_the_gradient_of_a_space_gives_every_directional_derivative(space):
    """<gradient, d> in the space's inner product is the derivative along d, and the gradient lies in the space."""
    mask = masks(2)
    derivative = map_fields(lambda f: draw(*f.shape, seed=1), space.empty(2))
    gradient, direction = space.gradient(derivative, mask), point(space, 2, 2, mask)
    inner = (space.squared_norm(gradient + direction, mask) - space.squared_norm(gradient - direction, mask)) / 4
    pairs = zip(fields(derivative).values(), fields(direction).values(), strict=True)
    torch.testing.assert_close(inner, sum((a * b).flatten(1).sum(1) for a, b in pairs))
    assert largest_difference(space.project(gradient, mask), gradient) < 1e-15


# Classifier guidance


@pytest.mark.parametrize("level", [LEVEL, Level(0.02, 1.0), Level(1.0, 0.05), Level(1.0, 3.0)], ids=str)
@pytest.mark.parametrize("view", ["x0", "eps", "v"])
def test_the_exact_classifier_gives_exactly_the_conditional_denoiser(view, level):
    """Bayes: grad log p(x_t) + grad log p(c | x_t) = grad log p(x_t | c), in every field and under masks."""
    oracle, mask, given = labelled(), masks(4), {"label": torch.tensor([0, 1, 1, 2])}
    x = combine((level.total, point(FIELDS, 4, 7, mask)))

    def unconditional(x, level, conditions=None, mask=None):
        return oracle(x, level, None, mask)

    guided = projected(energy(viewed(unconditional, view), FIELDS, posterior(oracle)), FIELDS)
    with torch.no_grad():
        found = guided(x, level, given, mask)
    expected = oracle(x, level, given, mask)
    assert largest_difference(expected.x0, unconditional(x, level, None, mask).x0) > 1e-3
    assert largest_difference(found.eps, expected.eps) < 1e-12
    assert largest_difference(found.x0, expected.x0) < 1e-12 * (level.sigma / level.alpha) ** 2 + 1e-12
    assert found.view == view
    assert largest_difference(found.variance, map_fields(lambda f: torch.full_like(f, 0.25), x)) == 0
    assert not any(value.requires_grad for value in fields(found.output).values())


def test_levels_may_be_those_of_samples():
    oracle, given = labelled(), {"label": torch.tensor([0, 1])}
    levels = Level(torch.tensor([0.7, 0.0]), torch.tensor([0.5, 1.0]))
    x = point(FIELDS, 2, 7)

    def unconditional(x, level, conditions=None, mask=None):
        return oracle(x, level, None, mask)

    found = projected(energy(viewed(unconditional, "v"), FIELDS, posterior(oracle)), FIELDS)(x, levels, given)
    assert largest_difference(found.x0[:1], oracle(x[:1], LEVEL, {"label": torch.tensor([0])}).x0) < 1e-12
    assert largest_difference(found.v[1:], unconditional(x, levels).v[1:]) == 0  # nothing is known at alpha = 0

    doubled = classifier_free(oracle, (LABEL,), 3.0)(x, levels, given)
    first = classifier_free(oracle, (LABEL,), 3.0)(x[:1], LEVEL, {"label": torch.tensor([0])})
    assert largest_difference(doubled.x0[:1], first.x0) < 1e-12


# Tilted mixtures


def tilted(oracle, a):
    """p(x0) exp(a . x0), normalised: weights times exp(a . c_k + |a|^2 s^2 / 2), centres moved by s^2 a."""
    weights = oracle.weights * torch.exp(oracle.centres @ a)
    return Mixture(oracle.centres + oracle.std**2 * a, oracle.std, weights / weights.sum())


@pytest.mark.parametrize("step", [dpmpp_2m(), ddpm()], ids=["deterministic", "stochastic"])
def test_an_exponential_tilt_gives_the_tilted_mixture(step):
    """With log E[exp(a . x0) | x_t] = log sum_k w_k(x_t) exp(a . m_k + |a|^2 u / 2) samples follow the tilted law."""
    centres = torch.tensor([[-1.0, 0.0], [0.4, 1.0], [1.0, -0.8]])
    oracle = Mixture(centres, 0.2, torch.tensor([0.5, 0.3, 0.2]))
    a = torch.tensor([0.9, -0.4])

    def log_weight(x, level, conditions, mask):
        variance = level.alpha**2 * oracle.std**2 + level.sigma**2
        gain, left = level.alpha * oracle.std**2 / variance, oracle.std**2 * level.sigma**2 / variance
        means = centres + gain * (x[:, None] - level.alpha * centres)
        squares = (x[:, None] - level.alpha * centres).square().sum(2)
        terms = oracle.weights.log() - squares / (2 * variance)
        return (terms.log_softmax(1) + means @ a + a.square().sum() * left / 2).logsumexp(1)

    n, expected, schedule = 2000, tilted(oracle, a), Cosine(-9, 9)
    guided = energy(oracle, Euclidean((2,)), log_weight)
    x = draw(5, 2, seed=3)
    torch.testing.assert_close(guided(x, LEVEL).x0, expected(x, LEVEL).x0)

    found = sample(
        guided, Euclidean((2,)), step, levels_of(schedule, uniform_in_log_snr(schedule, 60)), indices=range(n)
    )
    nearest = torch.cdist(found, expected.centres).argmin(1)
    shares = torch.bincount(nearest, minlength=3) / n
    error = (expected.weights * (1 - expected.weights) / n).sqrt()
    assert ((shares - expected.weights).abs() < 4 * error).all()
    assert (shares - oracle.weights).abs().max() > 10 * error.max()
    for k in range(3):
        group = found[nearest == k]
        assert (group.mean(0) - expected.centres[k]).abs().max() < 5 * 0.2 / math.sqrt(len(group)) + 0.003


def test_a_tilt_of_several_fields_under_a_mask_in_every_entry():
    """exp of a linear function of the whole tensors, both entries of a pair: the gradient of the space is the tilt."""
    mask, std = masks(4), 0.3
    centre, a = point(FIELDS, 1, 5), map_fields(lambda f: draw(*f.shape, seed=8), FIELDS.empty(1))
    oracle = Mixture(centre, std, space=FIELDS)

    def log_weight(x, level, conditions, mask):
        gain = level.alpha * std**2 / (level.alpha**2 * std**2 + level.sigma**2)
        terms = map_fields(lambda f, w: gain * w * f, x, a)
        return sum(value.flatten(1).sum(1) for value in fields(terms).values())

    x = point(FIELDS, 4, 7, mask)
    found = projected(energy(oracle, FIELDS, log_weight), FIELDS)(x, LEVEL, None, mask)
    for row in range(4):
        own = mask[row : row + 1]
        moved = combine((1.0, centre), (std**2, FIELDS.gradient(a, own)))
        expected = Mixture(moved, std, space=FIELDS)(x[row : row + 1], LEVEL, None, own)
        assert largest_difference(found.x0[row : row + 1], expected.x0) < 1e-13


# The clean estimate


def quadratic(x0, level, conditions, mask):
    return -(x0 - 1).square().sum(1)


def test_a_gaussian_log_weight_of_the_clean_estimate_is_exact_for_gaussian_data():
    """N(m, s^2) times exp(-w (x0 - 1)^2) is a Gaussian too, of precision 1 / s^2 + 2 w."""
    mean, std, level = 0.3, 0.4, LEVEL
    x = draw(4, 3)
    for weight in (0.5, 30.0, -1.0):
        precision = 1 / std**2 + 2 * weight
        exact = gaussian((mean / std**2 + 2 * weight) / precision, precision**-0.5)(x, level)
        for view in ("x0", "eps", "v"):
            with torch.no_grad():
                found = energy(viewed(gaussian(mean, std), view), Euclidean((3,)), quadratic, weight, of="x0")(x, level)
            if weight > 0:  # a factor that grows without bound is not damped
                torch.testing.assert_close(found.x0, exact.x0)
            assert not found.output.requires_grad
            assert found.x is x


def test_without_curvature_the_gradient_through_the_denoiser_is_the_chain_rule():
    """For one Gaussian x0_hat is affine in x with slope g, so grad_x f(x0_hat(x)) = g f'(x0_hat(x))."""
    mean, std, level = 0.3, 0.4, LEVEL
    gain = level.alpha * std**2 / (level.alpha**2 * std**2 + level.sigma**2)
    x, plain = draw(4, 3), gaussian(mean, std)
    found = energy(plain, Euclidean((3,)), quadratic, -0.5, of="x0")(x, level)
    gradient = gain * -2 * (plain(x, level).x0 - 1)
    torch.testing.assert_close(found.score, plain(x, level).score - 0.5 * gradient)


@pytest.mark.parametrize("step", [adams(), heun(), ddim(), ddpm()], ids=["adams", "heun", "ddim", "ddpm"])
def test_a_steep_log_weight_of_the_clean_estimate_does_not_diverge_in_few_steps(step):
    """N(0, 1) times exp(-10 (x - 1)^2) has the mean 20 / 21 and the variance 1 / 21."""
    levels = levels_of(Cosine(), grid("tapered", Cosine(), 10))

    def steep(x0, level, conditions, mask):
        return -10 * (x0 - 1).square().sum(1)

    plain = classifier_free(gaussian(0.0, 1.0), (LABEL,), 3.0)
    for denoise in (gaussian(0.0, 1.0), plain):
        guided = energy(denoise, Euclidean((1,)), steep, of="x0")
        conditions = {"label": torch.zeros(400, dtype=torch.int64)}
        x = sample(guided, Euclidean((1,)), step, levels, indices=range(400), conditions=conditions)
        assert x.mean().item() == pytest.approx(20 / 21, abs=0.05)
        assert x.var().item() == pytest.approx(1 / 21, rel=0.5)


def test_a_log_weight_that_is_undefined_far_away_does_not_break_a_sample():
    """log(1 - x^2) has no value beyond 1; a step that would end there is not taken."""

    def bounded(x0, level, conditions, mask):
        return 50 * (1 - x0.square()).log().sum(1)

    guided = energy(gaussian(0.0, 0.2), Euclidean((1,)), bounded, of="x0")
    x = torch.tensor([[0.1], [0.3]])
    assert guided(x, Level(0.3, 0.95)).x0.isfinite().all()


def test_a_linear_log_weight_of_the_clean_estimate_is_the_tilt():
    """For a Gaussian and a linear function, log E[exp(a . x0) | x] = a . x0_hat + constant: the estimate is exact."""
    mean, std, a = 0.3, 0.4, torch.tensor([1.0, -2.0, 0.5])

    def log_weight(x0, level, conditions, mask):
        return x0 @ a

    guided = energy(gaussian(mean, std), Euclidean((3,)), log_weight, of="x0")
    expected = Mixture((mean + std**2 * a)[None], std)
    x = draw(4, 3)
    torch.testing.assert_close(guided(x, LEVEL).x0, expected(x, LEVEL).x0)


def test_the_clean_estimate_is_judged_inside_its_space():
    """A network's raw output may lie outside; the log-weight sees its projection, and its gradient goes through it."""
    space, a = ZeroCentred((3, 2)), draw(1, 3, 2, seed=1)

    def outside(x, level, conditions=None, mask=None):
        return from_x0(x + 5.0, x, level)

    seen = []

    def log_weight(x0, level, conditions, mask):
        seen.append(x0.detach())
        return (a * x0).flatten(1).sum(1)

    x = point(space, 2, 3)
    found = energy(outside, space, log_weight, of="x0")(x, LEVEL)
    torch.testing.assert_close(seen[0], x)
    torch.testing.assert_close(found.output, x + 5.0 + LEVEL.sigma**2 / LEVEL.alpha * space.project(a))


def test_energies_nest_with_their_second_derivatives():
    """The outer gradient sees how the inner guidance moves with x: compared with differences."""
    oracle = Mixture(draw(3, 2), 0.5)
    space = Euclidean((2,))
    inner = energy(oracle, space, lambda x, level, conditions, mask: -x.pow(4).sum(1) / 10)

    def outer_weight(x0, level, conditions, mask):
        return x0.exp().sum(1)  # convex, so that the gradient is not damped

    outer = energy(inner, space, outer_weight, of="x0")
    x, h = draw(1, 2, seed=4), 1e-5
    found = (outer(x, LEVEL).score - inner(x, LEVEL).score)[0]
    for axis in range(2):
        step = h * torch.eye(2)[axis]
        ends = [outer_weight(inner(x + sign * step, LEVEL).x0, LEVEL, None, None).item() for sign in (1, -1)]
        assert found[axis].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-8)


def test_weight_zero_and_functions_of_nothing_change_nothing():
    oracle, x = Mixture(draw(3, 2), 0.5), draw(4, 2, seed=1)
    assert energy(oracle, Euclidean((2,)), posterior(oracle), 0.0) is oracle
    constant = energy(oracle, Euclidean((2,)), lambda x, level, conditions, mask: torch.zeros(len(x)), 3.0)
    torch.testing.assert_close(constant(x, LEVEL).x0, oracle(x, LEVEL).x0)
    # A function of one field alone leaves the other.
    several = energy(labelled(), FIELDS, lambda x, level, conditions, mask: x["kind"].flatten(1).sum(1))
    state = point(FIELDS, 2, 1)
    found, plain = several(state, LEVEL).x0, labelled()(state, LEVEL).x0
    assert (found["place"] - plain["place"]).abs().max() == 0
    torch.testing.assert_close(found["kind"] - plain["kind"], torch.full((2, 4, 3), LEVEL.sigma**2 / LEVEL.alpha))


# Classifier-free guidance


@pytest.mark.parametrize("schedule", [Cosine(-9, 9), Exploding(0.01, 100)], ids=["cosine", "exploding"])
def test_between_two_gaussians_of_one_variance_it_is_a_gaussian_further_on(schedule):
    """Scores differ by a constant times (m_c - m_u), so the guided one is that of N(m_u + w (m_c - m_u), s^2)."""
    unconditional, conditional, std, weight = 0.2, 0.6, 0.3, 2.5

    def denoise(x, level, conditions=None, mask=None):
        means = torch.tensor([unconditional, conditional, unconditional])[conditions["label"] + 1]
        gain = level.alpha * std**2 / (level.alpha**2 * std**2 + level.sigma**2)
        return from_x0(means[:, None] + gain * (x - level.alpha * means[:, None]), x, level)

    condition = ClassCondition("label", ("a",))
    guided, space = classifier_free(denoise, (condition,), weight), Euclidean((3,))
    given = {"label": torch.zeros(4, dtype=torch.long)}
    target = unconditional + weight * (conditional - unconditional)
    x = draw(4, 3)
    torch.testing.assert_close(guided(x, LEVEL, given).x0, gaussian(target, std)(x, LEVEL).x0)
    levels = levels_of(schedule, uniform_in_log_snr(schedule, 800))[:-1]
    start = prior(space, Draws.of(0, range(4)), levels[0])
    found = sample(guided, space, dpmpp_2m(), levels, indices=range(4), conditions=given, keep_noise=True)
    torch.testing.assert_close(found, gaussian_flow(start, levels[0], levels[-1], target, std), atol=2e-4, rtol=0)


def counted(denoise):
    sizes = []

    def counting(x, level, conditions=None, mask=None):
        sizes.append(x.shape[0])
        return denoise(x, level, conditions, mask)

    return counting, sizes


def test_only_samples_that_are_asked_for_something_have_a_second_pass():
    oracle, mask = labelled(), masks(4)
    counting, sizes = counted(viewed(oracle, "v"))
    x, given = point(FIELDS, 4, 7, mask), {"label": torch.tensor([0, 2, 1, 2])}
    found = classifier_free(counting, (LABEL,), 3.0)(x, LEVEL, given, mask)
    for row, label in enumerate(given["label"]):
        one, own = x[row : row + 1], mask[row : row + 1]
        plain = oracle(one, LEVEL, None, own).v
        expected = combine((-2.0, plain), (3.0, oracle(one, LEVEL, {"label": label[None]}, own).v))
        assert largest_difference(found.v[row : row + 1], expected) < 1e-13
    nothing = {"label": torch.full((4,), 2)}
    classifier_free(counting, (LABEL,), 3.0)(x, LEVEL, nothing, mask)
    classifier_free(counting, (LABEL,), 0.0)(x, LEVEL, given, mask)
    classifier_free(counting, (LABEL,), 1.0)(x, LEVEL, given, mask)
    classifier_free(counting, (LABEL,), 3.0)(x, LEVEL, None, mask)
    assert sizes == [6, 4, 4, 4, 4]
    assert largest_difference(found.variance, map_fields(lambda f: torch.full_like(f, 0.25), x)) == 0


def test_guidance_against_a_condition_is_its_formula():
    """All samples move away from it, also one without conditions, for which the plain prediction is the other end."""
    oracle, mask = labelled(), masks(4)
    counting, sizes = counted(viewed(oracle, "v"))
    x, given = point(FIELDS, 4, 7, mask), {"label": torch.tensor([0, 2, 1, 0])}
    found = classifier_free(counting, (LABEL,), 3.0, {"label": torch.tensor([1])})(x, LEVEL, given, mask)
    against = oracle(x, LEVEL, {"label": torch.full((4,), 1)}, mask).v
    expected = combine((-2.0, against), (3.0, oracle(x, LEVEL, given, mask).v))
    assert largest_difference(found.v, expected) < 1e-13
    assert sizes == [8]


def test_conditions_that_the_model_does_not_know_pass_through():
    """A classifier may be asked for what the model was never told."""
    seen = []

    def denoise(x, level, conditions=None, mask=None):
        seen.append(conditions)
        return from_x0(x, x, level)

    given = {"label": torch.tensor([0, 2]), "other": torch.tensor([5, 6])}
    classifier_free(denoise, (LABEL,), 2.0)(draw(2, 3), LEVEL, given)
    assert seen[0]["label"].tolist() == [2, 2, 0]
    assert seen[0]["other"].tolist() == [5, 6, 5]


def test_two_threads_that_sample_from_one_guided_denoiser_get_what_each_gets_alone():
    """Bit for bit, with conditions of their own."""
    guided = classifier_free(labelled(), (LABEL,), 3.0)
    levels = levels_of(Cosine(), uniform_in_log_snr(Cosine(), 10))
    asked = [{"label": torch.tensor(labels)} for labels in ([0, 2, 1], [1, 0, 2])]

    def drawn(conditions):
        return sample(guided, FIELDS, ddim(), levels, indices=range(3), conditions=conditions)

    alone = [drawn(conditions) for conditions in asked]
    assert largest_difference(*alone) > 0.1
    with ThreadPoolExecutor(2) as pool:
        for own, found in zip(5 * alone, pool.map(drawn, 5 * asked), strict=True):
            assert largest_difference(own, found) == 0


def test_a_call_of_another_thread_between_any_two_lines_changes_no_answer():
    """What the threads above do seldom is done here at each line."""
    first, second = ({"label": torch.tensor([label])} for label in (0, 1))
    cached = cache_last(lambda conditions: conditions["label"].item())
    calls = []

    def between(frame, event, argument):
        if event == "line" and "joint_batch" in frame.f_code.co_filename:
            calls.append(cached(second))
        return between

    tracing = sys.gettrace()
    sys.settrace(between)
    try:
        found = cached(first)
    finally:
        sys.settrace(tracing)
    assert found == 0
    assert len(calls) > 3
    assert set(calls) == {1}


def test_conditions_that_were_replaced_in_their_dictionary_are_seen():
    guided, x, given = classifier_free(labelled(), (LABEL,), 3.0), point(FIELDS, 2, 7), {"label": torch.tensor([0, 1])}
    first = guided(x, LEVEL, given)
    given["label"] = torch.tensor([1, 0])
    assert largest_difference(guided(x, LEVEL, given).x0, first.x0) > 0.1


SHAPE, COLOUR = ClassCondition("shape", ("round", "square")), ClassCondition("colour", ("red", "blue"))


def by_shape_and_colour(x, level, conditions=None, mask=None):
    """x0 is 10 shape + colour, with shape counting from 1 and 0 for null; colour too."""
    shape, colour = ((conditions[name] + 1) % 3 for name in ("shape", "colour"))
    return Prediction(x, level, (10.0 * shape + colour)[:, None].expand_as(x), "x0", shape[:, None].expand_as(x) * 1.0)


def test_composition_is_its_formula_in_one_batch():
    counting, sizes = counted(by_shape_and_colour)
    given = {"shape": torch.tensor([0, 1, 2, 2]), "colour": torch.tensor([1, 2, 0, 2])}
    guided = composed(counting, (SHAPE, COLOUR), {"shape": 2.0, "colour": -3.0})
    found = guided(draw(4, 5), LEVEL, given)
    # Row by row: 2 * 10 - 3 * 2, 2 * 20, -3 * 1, nothing.
    torch.testing.assert_close(found.x0[:, 0], torch.tensor([14.0, 40.0, -3.0, 0.0]))
    assert sizes == [4 + 2 + 2]
    assert found.variance[:, 0].tolist() == [0.5, 1.0, 0.0, 0.0]  # the mean of both passes
    # One condition with weight 1 is its pass alone; a name that is left out is ignored.
    found = composed(counting, (SHAPE, COLOUR), {"shape": 1.0, "colour": 0.0})(draw(4, 5), LEVEL, given)
    assert found.x0[:, 0].tolist() == [10.0, 20.0, 0.0, 0.0]
    assert composed(counting, (SHAPE, COLOUR), {"colour": 1.0})(draw(4, 5), LEVEL, given).x0[0, 0] == 2
    assert sizes[1:] == [4, 4]
    with pytest.raises(ValueError, match="no condition is called size; there are: colour, shape"):
        composed(counting, (SHAPE, COLOUR), {"size": 1.0})


def test_composition_of_independent_conditions_is_the_product_of_their_likelihoods():
    """Where p(c1, c2 | x_t) = p(c1 | x_t) p(c2 | x_t), weights 1 and 1 give p(x | c1, c2) exactly.

    One coordinate decides the shape, the other the colour, and they are independent.
    """
    one, two = (Mixture(torch.tensor(c), 0.3, labels=torch.tensor([0, 1])) for c in ([[-1.0], [1.0]], [[-0.5], [2.0]]))

    def both(x, level, conditions=None, mask=None):
        parts = [
            one(x[:, :1], level, {"label": conditions["shape"]}),
            two(x[:, 1:], level, {"label": conditions["colour"]}),
        ]
        return from_x0(torch.cat([part.x0 for part in parts], 1), x, level)

    x, given = draw(3, 2), {"shape": torch.tensor([0, 1, 0]), "colour": torch.tensor([1, 1, 0])}
    found = composed(both, (SHAPE, COLOUR), {"shape": 1.0, "colour": 1.0})(x, LEVEL, given)
    torch.testing.assert_close(found.x0, both(x, LEVEL, given).x0)


# Autoguidance, interval, rescaling


def test_autoguidance_is_its_formula_whatever_the_views():
    strong, weak = gaussian(0.5, 0.3), viewed(gaussian(0.1, 0.6), "eps")
    x = draw(4, 3)
    found = autoguidance(viewed(strong, "v"), weak, 1.8)(x, LEVEL)
    torch.testing.assert_close(found.x0, weak(x, LEVEL).x0 + 1.8 * (strong(x, LEVEL).x0 - weak(x, LEVEL).x0))
    torch.testing.assert_close(LEVEL.alpha * found.x0 + LEVEL.sigma * found.eps, x)
    assert found.view == "v"
    assert (found.variance == 0.25).all()
    assert autoguidance(strong, weak, 1.0) is strong


def test_an_interval_guides_inside_and_is_plain_outside():
    oracle = Mixture(draw(3, 2), 0.3, labels=torch.tensor([0, 1, 1]))
    counting, sizes = counted(oracle)
    schedule, given = Cosine(-10, 10), {"label": torch.zeros(5, dtype=torch.long)}
    levels = levels_of(schedule, uniform_in_log_snr(schedule, 21))  # -10, -9, ..., 10
    guided = interval(classifier_free(counting, (LABEL,), 2.0), counting, -3.5, 4.5)
    sample(guided, Euclidean((2,)), ddim(), levels, indices=range(5), conditions=given)
    assert sizes == [5] * 7 + [10] * 8 + [5] * 6
    low, high = log_snr_interval(0.28, 2.9)
    assert [low, high] == pytest.approx([Level(1.0, 2.9).log_snr, Level(1.0, 0.28).log_snr])
    assert log_snr_interval(0.0, math.inf) == (-math.inf, math.inf)
    inside, outside = Level(0.7, 0.5), Level(0.01, 1.0)
    both = Level(*(torch.tensor(pair) for pair in zip(inside, outside, strict=True)))
    x, given = draw(2, 2), {"label": torch.zeros(2, dtype=torch.long)}
    found = guided(x, both, given).x0
    torch.testing.assert_close(found[0], classifier_free(oracle, (LABEL,), 2.0)(x, inside, given).x0[0])
    torch.testing.assert_close(found[1], oracle(x, outside, given).x0[1])


def test_rescaling_is_its_formula():
    conditional, guided, x, phi = gaussian(0.5, 0.3), gaussian(0.2, 0.9), draw(4, 3, 5), 0.7
    space = Euclidean((3, 5))
    found = rescale(viewed(guided, "v"), viewed(conditional, "eps"), space, phi)(x, LEVEL)
    wanted, output = conditional(x, LEVEL).v, guided(x, LEVEL).v
    ratio = wanted.flatten(1).std(1) / output.flatten(1).std(1)
    torch.testing.assert_close(found.v, phi * output * ratio[:, None, None] + (1 - phi) * output)
    assert (found.variance == 0.25).all()
    assert rescale(guided, conditional, space, 0.0) is guided


class Affine(nn.Module):
    """A backbone whose output depends on everything that it is given."""

    width = 8

    def __init__(self, sizes):
        super().__init__()
        self.net, self.sizes = nn.Linear(8 + 15, 15), sizes

    def forward(self, x, conditioning):
        self.sizes.append(x.shape[0])
        return self.net(torch.cat([x.flatten(1), conditioning], 1)).view_as(x)


def test_rescaling_takes_the_unguided_prediction_from_the_joint_pass():
    """6 rows for 4 samples, of which 2 have a label; under guidance of other kinds too, and not if a guide drops it."""
    sizes = []
    denoiser = Denoiser(Affine(sizes), (LABEL,)).double().requires_grad_(False)
    for value in denoiser.parameters():
        nn.init.normal_(value, std=0.3)
    space, x, given = Euclidean((3, 5)), draw(4, 3, 5), {"label": torch.tensor([0, 2, 1, 2])}
    free = classifier_free(denoiser, (LABEL,), 3.0)
    weak = gaussian(0.1, 0.6)

    def pushed(x, level, conditions, mask):
        return (0.1 * x).flatten(1).sum(1)

    def known(denoise):
        """Without what was carried along."""
        return lambda *at, **named: replace(denoise(*at, **named), unguided=None)

    for guided, cost in (
        (free, [6]),
        (autoguidance(free, weak, 2.0), [6]),
        (energy(free, space, pushed, 0.5), [6]),
        (energy(free, space, pushed, 0.5, of="x0"), [6]),
        (classifier_free(autoguidance(denoiser, weak, 2.0), (LABEL,), 3.0), [6]),
        (composed(denoiser, (LABEL,), {"label": 3.0}), [6]),
        (composed(denoiser, (LABEL, SHAPE), {"label": 3.0}), [6, 4]),
        (known(free), [6, 4]),
    ):
        asked = {**given, "shape": torch.zeros(4, dtype=torch.long)}
        expected = rescale(known(guided), denoiser, space, 0.7)(x, LEVEL, asked)
        sizes.clear()
        found = rescale(guided, denoiser, space, 0.7)(x, LEVEL, asked)
        assert sizes == cost
        torch.testing.assert_close(found.output, expected.output)
        assert not found.output.requires_grad


def test_a_single_number_has_no_deviation_and_is_not_rescaled():
    x = draw(50, 1, seed=2).float()
    assert (deviation(Euclidean((1,)), x) == 0).all()
    guided = rescale(gaussian(0.2, 0.9), gaussian(0.5, 0.3), Euclidean((1,)), 1.0)
    torch.testing.assert_close(guided(x, LEVEL).x0, gaussian(0.2, 0.9)(x, LEVEL).x0)


def test_rescaling_counts_what_exists_field_by_field():
    mask = masks(2)
    x = point(FIELDS, 2, 3, mask)
    upper = torch.triu_indices(3, 3, 1)
    expected = {
        "place": x["place"][0, :3].square().mean() * 3 / 2,  # zero mean, 2 of 3 places are free
        "pairs": x["pairs"][0, upper[0], upper[1], 0].var(unbiased=False),
        "kind": x["kind"][0, :3].var(unbiased=False),
    }
    for name, part in FIELDS.parts.items():
        torch.testing.assert_close(deviation(part, x[name], mask)[0] ** 2, expected[name])
    oracle = labelled()
    tripled = {"place": 3.0, "pairs": 2.0, "kind": 0.5}

    def stretched(x, level, conditions=None, mask=None):
        output = oracle(x, level, None, mask).x0
        scaled = {name: factor * output[name] for name, factor in tripled.items()}
        return from_x0(TensorDict(scaled, batch_size=output.batch_size), x, level)

    found = rescale(stretched, oracle, FIELDS, 1.0)(x, LEVEL, None, mask)
    assert largest_difference(found.x0, oracle(x, LEVEL, None, mask).x0) < 1e-13


# All together


@pytest.mark.parametrize("step", [dpmpp_2m(), ddpm(), ddim(0.5)], ids=["2m", "ddpm", "ddim"])
def test_all_of_them_at_once_on_several_fields_with_masks(step):
    """Each is neutral where it should be, so the stack of all gives the conditional model, sample by sample."""
    oracle, mask, given = labelled(), masks(4), {"label": torch.tensor([0, 1, 1, 2])}
    schedule = Cosine(-8, 8)
    levels = levels_of(schedule, uniform_in_log_snr(schedule, 6))

    def unconditional(x, level, conditions=None, mask=None):
        return oracle(x, level, None, mask)

    def drawn(denoise):
        return sample(denoise, FIELDS, step, levels, indices=range(4), conditions=given, mask=mask)

    # Half of the conditioning by the network's difference, half by a classifier.
    half = classifier_free(autoguidance(oracle, oracle, 2.0), (LABEL,), 0.4)
    whole = energy(half, FIELDS, posterior(oracle), 0.6)
    stack = interval(rescale(whole, oracle, FIELDS, 0.5), oracle, -6.0, 6.0)
    assert largest_difference(drawn(stack), drawn(oracle)) < 1e-10
    assert largest_difference(drawn(oracle), drawn(unconditional)) > 0.1
    # And with weights that do something it stays in the space and finite.
    strong = energy(
        rescale(classifier_free(oracle, (LABEL,), 3.0), oracle, FIELDS, 0.7), FIELDS, posterior(oracle), 2.0
    )
    x = drawn(strong)
    assert largest_difference(FIELDS.project(x, mask), x) < 1e-12
    assert all(value.isfinite().all() for value in fields(x).values())
    halves = [
        sample(strong, FIELDS, step, levels, indices=pair, conditions={"label": given["label"][pair]}, mask=mask[pair])
        for pair in ([0, 1], [2, 3])
    ]
    assert largest_difference(concatenate(halves), x) < 1e-9
