"""Fields with levels of their own: one denoiser of a joint distribution draws it, and each field given the other."""

import math
from contextlib import nullcontext

import pytest
import torch

import diffcore as dc
from diffcore.denoising.denoiser import Prediction
from diffcore.errors import UserError
from diffcore.process.gaussian import perturb, posterior, transition
from diffcore.process.schedules import ByField, Cosine
from diffcore.sampling import solvers
from diffcore.sampling.inverse.editing import given_fields
from diffcore.sampling.loop import integrate, levels_of, sample, with_given
from diffcore.sampling.timesteps import tapered, uniform_in_log_snr
from diffcore.states.level import CLEAN, FieldLevels, Level
from diffcore.states.spaces import Euclidean, Product, ZeroCentred
from diffcore.states.state import combine, fields, named
from diffcore.testing.oracles import JointMixture, gaussian
from tests.support.joint import COUNT, JOINT, SHIFTED, SPACE, check_distribution, flat, normal

SOLVERS = {
    "adams": (solvers.adams(), 30),
    "adams in eps": (solvers.adams(view="eps", clock="log-snr"), 60),
    "dpmpp-2m": (solvers.dpmpp_2m(), 60),
    "dpmpp-2m with noise": (solvers.dpmpp_2m(1.0), 100),
    "ddim": (solvers.ddim(), 150),
    "ddim with noise": (solvers.ddim(1.0), 150),
    "euler": (solvers.euler(), 150),
    "euler with noise": (solvers.euler(1.0), 150),
    "heun": (solvers.heun(), 40),
    "edm": (solvers.edm(0.2), 40),
    "ddpm": (solvers.ddpm(), 150),
    "pc": (solvers.pc(), 100),
    "langevin": (solvers.langevin(5, 0.1), 40),
}
BIAS = {"langevin": 0.2}


def drawn(solver, given=None, schedule=SHIFTED):
    """Samples from the solver, with noise for all samples at once."""
    step, steps = SOLVERS[solver]
    generator = torch.Generator().manual_seed(1)
    levels, x = levels_of(schedule, tapered(Cosine(), steps)), normal(generator)
    if given:
        levels, x = [with_given(level, given, SPACE) for level in levels], named({**fields(x), **given})
    return integrate(step, JOINT, x, levels, lambda: normal(generator))


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_denoiser_draws_the_joint_distribution_with_shifted_levels(solver):
    check_distribution(flat(drawn(solver)), JOINT, BIAS.get(solver, 0.02))


@pytest.mark.parametrize(
    ("solver", "known", "value"),
    [(solver, "a", [0.2]) for solver in SOLVERS]
    + [(solver, "b", [0.3, -0.2]) for solver in SOLVERS if solver not in ("langevin", "pc")],
)
def test_one_denoiser_draws_each_field_given_the_other(solver, known, value):
    point = torch.tensor(value)
    samples = drawn(solver, {known: point.expand(COUNT, -1)}, Cosine())
    assert (samples[known] == point).all()  # bit for bit
    other = "b" if known == "a" else "a"
    check_distribution(samples[other].double(), JOINT.given(known, point), BIAS.get(solver, 0.02))


def test_fields_may_be_decided_one_after_the_other():
    """First `a` alone from noise to data while `b` is all noise, then `b` given `a`."""
    levels = levels_of(Cosine(-14, 14), tapered(Cosine(-14, 14), 40))
    first = [FieldLevels({"a": level, "b": levels[0]}) for level in levels]
    then = [FieldLevels({"a": CLEAN, "b": level}) for level in levels[1:]]
    generator = torch.Generator().manual_seed(1)
    x = normal(generator)
    drawn = integrate(solvers.adams(), JOINT, x, [*first, *then], None)
    check_distribution(flat(drawn), JOINT)
    alone = integrate(solvers.adams(), JOINT, x, first, None)
    assert (alone["b"] == x["b"]).all()
    assert (alone["a"] == drawn["a"]).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_levels_by_field_give_the_bits_of_the_shared_level(solver):
    step, _ = SOLVERS[solver]
    levels = levels_of(Cosine(), tapered(Cosine(), 5))
    by_field = [FieldLevels({"a": level, "b": level}) for level in levels]
    first, second = (sample(JOINT, SPACE, step, path, indices=range(3)) for path in (levels, by_field))
    assert all((first[name] == second[name]).all() for name in ("a", "b"))


@pytest.mark.parametrize("solver", SOLVERS)
def test_fields_that_do_not_depend_on_each_other_are_drawn_as_alone(solver):
    """For independent fields, each follows its own levels as if it were the whole state."""
    step, _ = SOLVERS[solver]
    independent = JointMixture(
        JOINT.means[:1], torch.diag_embed(torch.tensor([[0.5, 2.0, 0.1]]).double()), torch.ones(1).double()
    )
    path = levels_of(ByField(Cosine(), {"a": -4.0, "b": 0.0}), tapered(Cosine(), 6))

    def alone(name):
        part = independent.given("b" if name == "a" else "a", JOINT.means["b" if name == "a" else "a"][0])
        generator = torch.Generator().manual_seed(0)
        own = [level.of[name] if level is not CLEAN else CLEAN for level in path]
        space = Product({name: SPACE.parts[name]})
        x = normal(generator, 4)
        return integrate(step, part, space.project(x), own, lambda: space.project(normal(generator, 4)))[name]

    generator = torch.Generator().manual_seed(0)
    together = integrate(step, independent, normal(generator, 4), path, lambda: normal(generator, 4))
    for name in ("a", "b"):
        torch.testing.assert_close(together[name], alone(name), rtol=1e-5, atol=1e-5)


def test_a_given_field_is_not_changed_and_never_noised():
    seen = []
    value = torch.tensor([[0.3, -0.2]] * 2)
    levels = levels_of(Cosine(), uniform_in_log_snr(Cosine(), 4))

    def watch(evaluation):
        seen.append((evaluation.x["b"].clone(), evaluation.prediction.level.of["b"]))

    for step, _ in SOLVERS.values():
        result = sample(JOINT, SPACE, step, levels, indices=range(2), given={"b": value}, watch=watch)
        assert (result["b"] == value).all()
    assert seen
    assert all((x == value).all() and level == CLEAN for x, level in seen)


def test_the_noise_of_other_fields_does_not_depend_on_what_is_given():
    levels = levels_of(Cosine(), uniform_in_log_snr(Cosine(), 3))
    starts = []
    for given in (None, {"b": torch.zeros(2, 2)}):
        found = []
        watch = lambda evaluation, found=found: found.append(evaluation.x["a"].clone())  # noqa: E731
        sample(JOINT, SPACE, solvers.ddim(), levels, indices=range(2), given=given, watch=watch)
        starts.append(found[0])
    assert (starts[0] == starts[1]).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"c": torch.zeros(2, 1)}, "'c', which is not a field; there are: a, b"),
        ({"a": torch.zeros(2, 2)}, r"'a' has the shape \[2, 2\] instead of \[2, 1\]"),
        ({"a": torch.zeros(2, 1), "b": torch.zeros(2, 2)}, "all fields are given"),
    ],
)
def test_wrong_given_fields_are_refused(given, message):
    levels = levels_of(Cosine(), uniform_in_log_snr(Cosine(), 3))
    with pytest.raises(UserError, match=message):
        sample(JOINT, SPACE, solvers.ddim(), levels, indices=range(2), given=given)


def test_views_of_a_prediction_by_field_are_those_of_each_field():
    levels = {"a": Level(0.6, 0.8), "b": Level(0.9, 0.7)}
    x, output = (named({"a": torch.randn(3, 1), "b": torch.randn(3, 2)}) for _ in range(2))
    for view in ("x0", "eps", "v"):
        prediction = Prediction(x, FieldLevels(levels), output, view)
        for wanted in ("x0", "eps", "v", "score"):
            for name, level in levels.items():
                alone = getattr(Prediction(x[name], level, output[name], view), wanted)
                torch.testing.assert_close(getattr(prediction, wanted)[name], alone, rtol=0, atol=0)


@pytest.mark.parametrize("view", ["x0", "eps", "v"])
def test_a_clean_field_is_its_own_prediction(view):
    x = named({"a": torch.randn(3, 1), "b": torch.randn(3, 2)})
    prediction = Prediction(x, FieldLevels({"a": CLEAN, "b": Level(0.6, 0.8)}), 0 * x, view)
    assert (prediction.x0["a"] == x["a"]).all()
    assert not prediction.eps["a"].any()
    assert not prediction.v["a"].any()
    assert not prediction.score["a"].any()


def test_two_posterior_steps_are_one_by_field():
    """q(x_r | x_t, x_0) is that of x_s, then x_r, for levels by field of which one does not change."""
    t = FieldLevels({"a": Level(0.1, 0.9), "b": CLEAN})
    s = FieldLevels({"a": Level(0.5, 0.7), "b": CLEAN})
    r = FieldLevels({"a": Level(0.8, 0.4), "b": CLEAN})
    for name in ("a", "b"):
        far, first, second = (posterior(*(level.of[name] for level in pair)) for pair in ((r, t), (s, t), (r, s)))
        assert far.of_x == pytest.approx(second.of_x * first.of_x)
        assert far.of_x0 == pytest.approx(second.of_x * first.of_x0 + second.of_x0)
        assert far.std == pytest.approx(math.hypot(second.of_x * first.std, second.std))
    assert posterior(CLEAN, CLEAN) == (1.0, 0.0, 0.0)
    assert transition(CLEAN, CLEAN) == (1.0, 0.0)


def test_perturb_by_field_is_perturb_of_each_field():
    x0, noise = (named({"a": torch.randn(3, 1), "b": torch.randn(3, 2)}) for _ in range(2))
    levels = {"a": Level(torch.rand(3), torch.rand(3)), "b": CLEAN}
    x = perturb(x0, noise, FieldLevels(levels))
    assert (x["b"] == x0["b"]).all()
    torch.testing.assert_close(x["a"], perturb(x0["a"], noise["a"], levels["a"]))


def test_combine_takes_weights_by_field_and_leaves_out_those_of_zero():
    infinite = named({"a": torch.full((2, 1), math.inf), "b": torch.ones(2, 2)})
    ones = named({"a": torch.ones(2, 1), "b": torch.ones(2, 2)})
    result = combine(({"a": 2.0, "b": torch.tensor([1.0, 3.0])}, ones), ({"a": 0.0, "b": 1.0}, infinite), (1.0, ones))
    assert (result["a"] == 3).all()
    assert result["b"].tolist() == [[3, 3], [5, 5]]


@pytest.mark.parametrize("values", [torch.tensor([[0.3, -0.2]]), torch.tensor([[0.3, -0.2], [0.0, 1.0], [2.0, 0.1]])])
def test_given_fields_as_a_constraint_are_those_of_the_samples(values):
    constraint = given_fields({"b": values}, SPACE)
    drawn = dc.sample(JOINT, 3, space=SPACE, steps=4, constraint=constraint, batch_size=2)
    assert torch.equal(drawn["b"], values.expand(3, 2))
    levels = levels_of(Cosine(), tapered(Cosine(), 4))
    alone = sample(JOINT, SPACE, solvers.adams(), levels, indices=[1], given={"b": drawn["b"][1:2]})
    torch.testing.assert_close(alone["a"], drawn["a"][1:2])


def test_given_fields_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="the given field 'b' holds values that are not finite"):
        given_fields({"b": torch.tensor([[math.nan, 0.0]])}, SPACE)


def test_samples_have_the_elements_of_the_samples_that_given_fields_are_from():
    space = Product({"a": ZeroCentred((3, 2)), "b": Euclidean((3, 1))})
    mask = torch.arange(3) < torch.tensor([[2], [3]])
    constraint = given_fields({"b": torch.ones(2, 3, 1) * mask[..., None]}, space, mask=mask)
    exact = gaussian(0.0, 1.0)
    drawn = dc.sample(exact, 2, space=space, steps=3, constraint=constraint, batch_size=1)
    assert ((drawn["a"] != 0).all(2) == mask).all()
    same = dc.sample(exact, 2, space=space, steps=3, constraint=constraint, mask=mask)
    assert torch.equal(drawn["a"], same["a"])
    with pytest.raises(UserError, match="`mask` differs from that of the values that are given"):
        dc.sample(exact, 2, space=space, steps=3, constraint=constraint, mask=mask.flip(0))
    with pytest.raises(UserError, match=r"`mask` is float32 \[2, 3\]; give booleans"):
        given_fields({"b": torch.ones(2, 3, 1)}, space, mask=mask.float())


def test_given_values_of_elements_that_do_not_exist_are_refused():
    space = Product({"a": ZeroCentred((3, 2)), "b": Euclidean((3, 1))})
    constraint = given_fields({"b": torch.tensor([[[1.0], [-1.0], [0.0]]])}, space)
    for size, wrong in ((1, True), (2, False), (3, False)):
        mask = (torch.arange(3) < size)[None]
        with pytest.raises(UserError, match="values of elements that do not exist") if wrong else nullcontext():
            constraint(JOINT, solvers.adams(), range(1), mask)
