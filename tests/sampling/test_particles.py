"""Particles against exact distributions: weighted free samples, quadrature in one dimension, and closed forms."""

import math

import pytest
import torch

from diffcore.denoising.denoiser import from_x0
from diffcore.errors import UserError
from diffcore.process.schedules import ByField, Cosine
from diffcore.sampling.guidance import energy
from diffcore.sampling.inverse.drawing import draw
from diffcore.sampling.inverse.editing import inpainting
from diffcore.sampling.inverse.strength import varying
from diffcore.sampling.loop import levels_of
from diffcore.sampling.particles import Factor, Particles, effective_size, steps_of, systematic
from diffcore.sampling.solvers import adams, ddim, ddpm, dpmpp_2m, edm, heun, langevin, pc
from diffcore.sampling.timesteps import grid
from diffcore.states.level import CLEAN
from diffcore.states.spaces import Euclidean, Product, ZeroCentred
from diffcore.states.state import combine
from diffcore.testing.oracles import Mixture, gaussian

pytestmark = pytest.mark.usefixtures("float64")

LINE = Euclidean((1,))
DATA = Mixture(torch.tensor([[-1.0], [0.3], [1.5]]), 0.35, torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0, 1, 1]))
SCHEDULE = Cosine()


def unconditional(x, level, conditions=None, mask=None):
    return DATA(x, level)


def near(x, level, conditions=None, mask=None):
    """log h of a clean state: a Gaussian about 1."""
    return -((x[:, 0] - 1) ** 2) / (2 * 0.4**2)


def of_class(x, level, conditions=None, mask=None):
    """2 log p(c = 1 | x_t), which a classifier of weight 2 has."""
    label = {"label": torch.ones(len(x), dtype=torch.int64)}
    return 2 * (math.log(0.5) + DATA.log_density(x, level, label) - DATA.log_density(x, level))


def guide_of(log_weight, of="x", space=LINE):
    return lambda plain: energy(plain, space, log_weight, of=of)


def drawn(particles, solver, count=500, steps=12, denoise=unconditional, space=LINE, **options):
    options = {"indices": range(count), "seed": 0} | options
    return draw(denoise, space, solver, SCHEDULE, grid("tapered", SCHEDULE, steps), particles=particles, **options)


def moments(x, log_weights=None):
    weights = torch.full((len(x),), 1 / len(x)) if log_weights is None else log_weights.softmax(0)
    mean = (weights * x[:, 0]).sum()
    return mean.item(), (weights * (x[:, 0] - mean) ** 2).sum().sqrt().item()


def apart(found, expected):
    """How far mean and standard deviation are from others, in units of the latter."""
    return max(abs(found[0] - expected[0]), abs(found[1] - expected[1])) / expected[1]


# Exact distributions


def test_particles_with_a_classifier_have_the_exact_distribution_and_guidance_alone_has_not():
    """p(x0) p(c | x0)^2 by quadrature. The gradient of 2 log p(c | x_t) is not that of its noisy states."""
    x = torch.linspace(-4, 5, 4001)[:, None]
    expected = moments(x, DATA.log_density(x, CLEAN) + of_class(x, CLEAN))
    guide = guide_of(of_class)
    alone = drawn(None, ddpm(), 1000, 24, guide(unconditional))
    assert apart(moments(alone), expected) > 0.35
    twisted = drawn(Particles(12, (Factor(of_class),), guide), ddpm(), 400, 24)
    assert apart(moments(twisted), expected) < 0.2


SOLVERS = {"ddpm": ddpm(), "dpmpp": dpmpp_2m(1.0), "edm": edm()}


@pytest.mark.parametrize("name", SOLVERS)
def test_more_particles_come_closer_to_weighted_free_samples(name):
    """p is what the solver draws, with all its errors: its own free samples, weighted by h, are exact for any steps."""
    solver, factor = SOLVERS[name], Factor(near, "x0")
    free = drawn(None, solver, 8000, seed=1)
    expected = moments(free, near(free, CLEAN))
    few, many = (apart(moments(drawn(Particles(count, (factor,)), solver)), expected) for count in (2, 20))
    assert many < 0.15 < few
    if name == "ddpm":
        guided = drawn(Particles(16, (factor,), guide_of(near, "x0")), solver)
        assert apart(moments(guided), expected) < 0.12


def test_weights_undo_a_guide_without_a_factor_in_constrained_spaces():
    """With h = 1 the target is p itself, whatever the guide does: here, one step of an exact Gaussian, with a mask."""
    space = Product({"place": ZeroCentred((3, 2)), "kind": Euclidean((3, 1))})
    mask = torch.tensor([[True, True, False]]).expand(200, -1)

    def normal(x, level, conditions=None, mask=None):
        return from_x0(space.project(combine((level.alpha, x)), mask), x, level)  # data of variance 1: alpha x

    def pulls(x, level, conditions=None, mask=None):
        return (0.5 * x["kind"][:, :2].sum((1, 2)) + x["place"][:, 0, 0]) * level.alpha

    def mean(particles, denoise):
        states = drawn(particles, ddpm(1.0), 200, 6, denoise, space, mask=mask)
        return torch.stack([states["kind"][:, :2].mean(), states["place"][:, 0, 0].mean()])

    guide = guide_of(pulls, space=space)
    assert (mean(None, guide(normal)) > 0.3).all()
    one = Factor(lambda x, level, conditions, mask: torch.zeros(len(x["kind"])))
    assert (mean(Particles(48, (one,), guide), normal).abs() < 0.16).all()


def test_fields_may_have_levels_of_their_own():
    """exp(a + b) moves the mean of N(0, I) to (1, 1); a gradient half as large leaves it to the weights."""
    space = Product({"a": LINE, "b": LINE})
    schedule = ByField(Cosine(), {"b": -3.0})

    def total(x, level, conditions=None, mask=None):
        return (x["a"] + x["b"])[:, 0]

    def guide(plain):
        return energy(plain, space, total, 0.5, of="x0")

    means = []
    for particles in (None, Particles(16, (Factor(total, "x0"),), guide)):
        denoise = guide(gaussian(0.0, 1.0)) if particles is None else gaussian(0.0, 1.0)
        states = draw(
            denoise, space, ddpm(1.0), schedule, grid("tapered", schedule, 8), indices=range(300), particles=particles
        )
        means.append([states["a"].mean().item(), states["b"].mean().item()])
    assert max(means[0]) < 0.75
    assert means[1] == pytest.approx([1.0, 1.0], abs=0.15)


# Properties


def test_resampling_is_unbiased_and_keeps_whole_numbers():
    log_weights = torch.tensor([[0.0, -1.0, -math.inf, 2.0, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0]])
    share = log_weights.softmax(1)
    uniforms = (torch.arange(2000) + 0.5) / 2000
    counts = torch.stack([
        torch.nn.functional.one_hot(systematic(log_weights, u.expand(2)), 5).sum(1) for u in uniforms
    ]).double()  # fmt: skip
    assert (counts.mean(0) - 5 * share).abs().max() < 1e-3
    assert ((counts - 5 * share).abs() < 1).all()
    assert systematic(log_weights[1:], torch.tensor([0.999])).tolist() == [[0, 1, 2, 3, 4]]


def test_the_effective_size():
    assert effective_size(torch.zeros(1, 4)).item() == pytest.approx(4)
    assert effective_size(torch.tensor([[0.0, -math.inf]])).item() == pytest.approx(1)
    assert effective_size(torch.tensor([[math.log(3.0), 0.0]])).item() == pytest.approx(1.6)


def test_a_sample_does_not_depend_on_the_batch():
    particles = Particles(4, (Factor(near, "x0"), Factor(of_class)), guide_of(of_class))
    together, alone = drawn(particles, ddpm(), 6), drawn(particles, ddpm(), indices=[4, 1])
    torch.testing.assert_close(alone, together[[4, 1]])
    assert len(together.unique()) == 6


def test_one_particle_is_the_sample_itself():
    guide = guide_of(of_class)
    torch.testing.assert_close(
        drawn(Particles(1, (Factor(of_class),), guide), ddpm(), 5), drawn(None, ddpm(), 5, denoise=guide(unconditional))
    )


def test_variations_keep_their_own_start():
    starts = torch.tensor([[-1.0], [1.5], [0.3]])
    found = drawn(Particles(3, (Factor(near, "x0"),)), ddpm(), 3, constraint=varying(starts, 0.05, LINE))
    assert (found - starts).abs().max() < 0.4


def test_which_solvers_fit():
    space = Product({"place": Euclidean((1,)), "kind": Euclidean((2,))})
    levels = levels_of(SCHEDULE, grid("tapered", SCHEDULE, 5))
    kinds = [(adams(), 0, 0), (heun(), 0, 0), (ddim(), 0, 1), (ddpm(), 1, 1), (ddim(0.5), 1, 1)]
    kinds += [(dpmpp_2m(1.0), 1, 0), (edm(), 1, 0), (langevin(2), 1, 0), (pc(), 1, 0)]
    for solver, noisy, one_gaussian in kinds:
        assert steps_of(solver, space, levels) == (bool(noisy), bool(one_gaussian))


def test_what_cannot_be_weighted_is_refused():
    particles = Particles(2, (Factor(near, "x0"),))
    pair = Euclidean((2,))
    known = inpainting(torch.ones(1, 2), torch.tensor([[True, False]]), pair)
    with pytest.raises(UserError, match="`particles` cannot be used where samples are made to agree"):
        drawn(particles, ddpm(), 2, space=pair, constraint=known)
    with pytest.raises(UserError, match="a log-weight must have one value for each sample"):
        drawn(Particles(2, (Factor(lambda *_: torch.zeros(3)),)), ddpm(), 2)
