"""Editing against exact posteriors: Gaussians and mixtures given a linear measurement."""

import math
from itertools import pairwise

import pytest
import torch
from tensordict import TensorDict

from diffcore.denoising.conditions import ClassCondition
from diffcore.denoising.denoiser import from_x0
from diffcore.errors import UserError
from diffcore.process.schedules import Cosine
from diffcore.sampling.guidance import classifier_free
from diffcore.sampling.inverse.editing import dps, inpainting, measured, mmps, repaint, upscaling
from diffcore.sampling.inverse.operators import Coarse, Keep, KeepElements, check_measurement, keep
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import Move, ddim, ddpm, dpmpp_2m
from diffcore.sampling.timesteps import karras
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred
from diffcore.states.state import map_fields
from diffcore.testing.oracles import Correlated, Mixture, gaussian, largest_difference
from tests.support.draws import draw

DIMENSIONS = 5
SPACE = Euclidean((DIMENSIONS,))
KNOWN = torch.tensor([[True, True, False, False, False]])


pytestmark = pytest.mark.usefixtures("float64")


def levels(n):
    return levels_of(Cosine(), karras(Cosine(), n))


def oracle():
    axes = torch.linalg.qr(draw(DIMENSIONS, DIMENSIONS, seed=1)).Q
    variances = torch.tensor([2.5, 1.5, 1.0, 0.5, 0.1], dtype=torch.float64)
    return Correlated(0.5 * draw(DIMENSIONS, seed=2), axes @ torch.diag(variances) @ axes.T)


def root(covariance):
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def wasserstein(mean, covariance, target):
    """The 2-Wasserstein distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (R C1 R)^(1/2)), R^2 = C2."""
    other = root(target.covariance)
    cross = root(other @ covariance @ other)
    squared = (mean - target.mean).square().sum() + (covariance + target.covariance - 2 * cross).trace()
    return squared.clamp(min=0).sqrt().item()


def distance(samples, target):
    return wasserstein(samples.mean(0), torch.cov(samples.T), target)


def sampling_error(target, n):
    return distance(target.mean + draw(n, DIMENSIONS, seed=9) @ root(target.covariance), target)


def measurement():
    """Two coordinates at 1.5 standard deviations from their mean."""
    prior = oracle()
    values = torch.zeros(1, DIMENSIONS)
    values[0, :2] = prior.mean[:2] + 1.5 * prior.covariance.diagonal()[:2].sqrt()
    return values


def posterior(noise_std=1e-6):
    return oracle().given(torch.eye(DIMENSIONS)[:2], measurement()[0, :2], noise_std)


def run(denoise, step, n, steps, space=SPACE):
    """What `sampling.sample` does, with the noise of all samples out of one stream, which is fast for thousands."""
    generator = torch.Generator().manual_seed(0)

    def fresh():
        return space.noise(map_fields(lambda f: torch.randn(f.shape, generator=generator), space.empty(n)))

    path = levels(steps)
    x, past = path[0].sigma * fresh(), []
    with torch.no_grad():
        for index, (now, then) in enumerate(pairwise(path)):
            x = step(denoise, x, Move(now, then, fresh, past, index))
    return x


# Operators


class Linear:
    """y = M x0."""

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, x0):
        return x0 @ self.matrix.T


def test_coarse_is_the_mean_of_blocks_in_one_two_and_three_dimensions():
    for sides in ((6,), (4, 6), (2, 4, 2)):
        x = draw(2, 3, *sides)
        pool = getattr(torch.nn.functional, f"avg_pool{len(sides)}d")
        torch.testing.assert_close(Coarse(2)(x), pool(x, 2))
    fields = TensorDict({"a": draw(2, 1, 4), "b": draw(2, 7)}, batch_size=[2])
    found = Coarse(4, "a")(fields)
    assert set(found.keys()) == {"a"}
    torch.testing.assert_close(found["a"], fields["a"].mean(2, keepdim=True))


def test_kept_elements_are_what_the_space_says_of_them_alone():
    space = Product({"place": ZeroCentred((4, 2)), "pairs": SymmetricPairs((4, 4, 1)), "kind": Euclidean((4, 3))})
    x = space.noise(map_fields(lambda f: draw(*f.shape), space.empty(2)))
    operator = KeepElements(torch.tensor([[True, False, True, False]]), space)
    found = operator(x)
    torch.testing.assert_close(found["place"][:, 0] - found["place"][:, 2], x["place"][:, 0] - x["place"][:, 2])
    torch.testing.assert_close(found["place"].sum(1), torch.zeros(2, 2))
    assert torch.equal(found["pairs"][:, 0, 2], x["pairs"][:, 0, 2])
    assert (found["pairs"] != 0).sum() == 2 * 2
    assert torch.equal(found["kind"][:, [0, 2]], x["kind"][:, [0, 2]])
    assert (found["kind"][:, [1, 3]] == 0).all()
    torch.testing.assert_close(operator(found), found)


# One evaluation against the exact posterior mean


def exact(matrix, y, noise_std, x, level):
    """E[x0 | x, y]: the denoiser of the posterior given y."""
    return oracle().given(matrix, y, noise_std)(x, level).x0


@pytest.mark.parametrize("level", [Level(0.01, 1.0), Level(0.6, 0.8), Level(1.0, 3.0), Level(0.99, 0.05)], ids=str)
@pytest.mark.parametrize("noise_std", [1e-4, 0.5])
def test_moment_matching_is_the_exact_posterior_mean_of_a_gaussian(level, noise_std):
    matrix, y, x = draw(3, DIMENSIONS, seed=4), draw(3, seed=5), draw(6, DIMENSIONS, seed=6)
    denoise = measured(oracle(), Linear(matrix), y[None], SPACE, mmps(noise_std, iterations=8))
    torch.testing.assert_close(denoise(x, level).x0, exact(matrix, y, noise_std, x, level), rtol=1e-5, atol=1e-5)


def test_levels_and_measurements_may_differ_by_sample():
    matrix, y, x = draw(3, DIMENSIONS, seed=4), draw(2, 3, seed=5), draw(2, DIMENSIONS, seed=6)
    alpha, sigma = torch.tensor([0.6, 0.9]), torch.tensor([0.8, 0.3])
    found = measured(oracle(), Linear(matrix), y, SPACE, mmps(0.2, 8))(x, Level(alpha, sigma)).x0
    for i in range(2):
        level = Level(alpha[i].item(), sigma[i].item())
        torch.testing.assert_close(found[i : i + 1], exact(matrix, y[i], 0.2, x[i : i + 1], level))


def test_dps_is_a_gradient_of_the_distance_to_the_measurement():
    matrix, y, x, level = draw(3, DIMENSIONS, seed=4), draw(3, seed=5), draw(2, DIMENSIONS, seed=6), Level(0.6, 0.8)
    with torch.enable_grad():
        x.requires_grad_()
        x0 = oracle()(x, level).x0
        off = (x0 @ matrix.T - y).norm(dim=1)
        (gradient,) = torch.autograd.grad(off.sum(), x)
    expected = x0 - 2.0 * math.sqrt(3) * level.sigma**2 / level.alpha * gradient
    found = measured(oracle(), Linear(matrix), y[None], SPACE, dps(weight=2.0))(x.detach(), level).x0
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("masked", [False, True])
def test_moment_matching_in_spaces_is_exact_in_their_coordinates(masked):
    """A Gaussian N(0, s^2) of the space: every direction of it shrinks alike, so x0 given x and y is known.

    For what is kept, x0_hat = (p x + m y) / (p + m) with p = alpha / sigma^2 ... in closed form below.
    """
    space = Product({"place": ZeroCentred((4, 2)), "pairs": SymmetricPairs((4, 4, 1)), "kind": Euclidean((4, 3))})
    mask = torch.tensor([[True, True, True, False]]).expand(3, 4) if masked else None

    def point(seed):
        return space.noise(map_fields(lambda f: draw(*f.shape, seed=seed), space.empty(3)), mask)

    x, clean, level, std = point(1), point(2), Level(0.6, 0.8), 0.7
    operator = KeepElements(torch.tensor([[True, True, False, False]]), space)
    denoise = measured(gaussian(0.0, std), operator, operator(clean), space, mmps(0.0, 4))
    found = denoise(x, level, mask=mask).x0
    plain = gaussian(0.0, std)(x, level).x0
    # Nothing couples directions, so the kept part becomes the measurement and the rest stays.
    expected = map_fields(lambda p, k, y: p - k + y, plain, operator(plain), operator(clean))
    assert largest_difference(found, expected) < 1e-8
    assert largest_difference(found, space.project(found, mask)) < 1e-12


# Samples against the exact posterior


@pytest.mark.parametrize("make", [dpmpp_2m, ddpm, lambda: ddim(0.5)], ids=["2m", "ddpm", "ddim-0.5"])
@pytest.mark.parametrize("noise_std", [1e-4, 0.4])
def test_moment_matching_walks_the_path_of_the_posterior_s_own_denoiser(make, noise_std):
    denoise = measured(oracle(), Keep(KNOWN), Keep(KNOWN)(measurement()), SPACE, mmps(noise_std, 4))
    found, expected = (run(function, make(), 50, 20) for function in (denoise, posterior(noise_std)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noise_std", [0.0, 0.4])
def test_samples_by_moment_matching_have_the_posterior_s_moments(noise_std):
    """4,000 draws of the posterior itself are about 0.04 from it; the prior is more than 2 away."""
    target = posterior(noise_std or 1e-6)
    denoise = measured(oracle(), Keep(KNOWN), Keep(KNOWN)(measurement()), SPACE, mmps(noise_std, 2))
    assert distance(run(denoise, dpmpp_2m(), 4000, 40), target) < 0.07


@pytest.mark.parametrize("make", [dpmpp_2m, ddpm], ids=["2m", "ddpm"])
def test_dps_lies_between_the_prior_and_the_posterior(make):
    target = posterior()
    unguided = wasserstein(oracle().mean, oracle().covariance, target)
    found = distance(
        run(measured(oracle(), Keep(KNOWN), Keep(KNOWN)(measurement()), SPACE, dps()), make(), 1000, 50), target
    )
    assert 0.1 * unguided < found < 0.5 * unguided


def repainted(resamplings, step, n=1000, steps=25):
    decorated = repaint(step, Keep(KNOWN), measurement(), resamplings)
    return run(oracle(), decorated, n, steps)


@pytest.mark.parametrize("make", [dpmpp_2m, ddpm], ids=["2m", "ddpm"])
def test_repaint_comes_nearer_to_the_posterior_with_every_resampling(make):
    far, near, nearest = (distance(repainted(count, make()), posterior()) for count in (1, 3, 10))
    assert nearest < 0.7 * near < 0.7 * far


@pytest.mark.parametrize("make", [dpmpp_2m, lambda: ddim(1.0), ddpm], ids=["2m", "ddim", "ddpm"])
@pytest.mark.parametrize("method", ["repaint", "mmps", "dps"])
def test_known_values_come_out_bit_by_bit(make, method):
    denoise, step = inpainting(measurement(), KNOWN, SPACE, method, resamplings=2)(oracle(), make(), range(4))
    x = sample(denoise, SPACE, step, levels(8), indices=range(4))
    assert torch.equal(x[:, :2], measurement()[:, :2].expand(4, 2))
    assert x[:, 2:].std() > 0.1


def test_with_noise_known_values_are_not_copied():
    denoise, step = inpainting(measurement(), KNOWN, SPACE, "mmps", noise_std=0.3)(oracle(), dpmpp_2m(), range(500))
    x = run(denoise, step, 500, 30)
    target = posterior(0.3)
    torch.testing.assert_close(x[:, :2].std(0), target.covariance.diagonal()[:2].sqrt(), rtol=0.12, atol=0)


def test_a_multistep_solver_forgets_across_jumps():
    """A memory of another path would bend the step: with an empty one dpmpp-2m is ddim."""
    torch.testing.assert_close(repainted(3, dpmpp_2m(), 5), repainted(3, ddim(), 5))


def test_each_sample_may_have_its_own_known_part():
    """In batches of two, as `generate` draws: sample i gets the known entries and the values of i."""
    values = draw(4, DIMENSIONS)
    known = torch.rand(4, DIMENSIONS, generator=torch.Generator().manual_seed(1)) < 0.5
    guide = inpainting(values, known, SPACE, "repaint", resamplings=1)
    for indices in ([0, 1], [2, 3]):
        denoise, step = guide(oracle(), dpmpp_2m(), indices)
        x = sample(denoise, SPACE, step, levels(5), indices=indices)
        assert torch.equal(x == values[indices], known[indices])


def test_a_sample_is_the_same_in_every_batch():
    for method in ("repaint", "mmps"):
        denoise, step = inpainting(measurement(), KNOWN, SPACE, method)(oracle(), ddpm(), range(4))
        many, one = (sample(denoise, SPACE, step, levels(6), indices=indices) for indices in (range(4), [2]))
        torch.testing.assert_close(many[2], one[0])


@pytest.mark.parametrize("method", ["repaint", "mmps"])
def test_the_right_mode_is_found(method):
    """Four modes at (+-1, +-1) in weights 8:8:2:1; knowing the first coordinate leaves the last two."""
    centres = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    mixture = Mixture(centres, 0.1, weights=torch.tensor([8.0, 8.0, 2.0, 1.0]))
    space, known = Euclidean((2,)), torch.tensor([[True, False]])
    values = torch.tensor([[1.0, 0.0]])
    denoise, step = inpainting(values, known, space, method)(mixture, dpmpp_2m(), range(900))
    x = run(denoise, step, 400, 25, space)
    assert torch.equal(x[:, 0], torch.ones(400))
    assert ((x[:, 1].abs() - 1).abs() < 0.5).double().mean() > 0.99
    assert (x[:, 1] < 0).double().mean().item() == pytest.approx(2 / 3, abs=0.12)


@pytest.mark.parametrize("method", ["repaint", "mmps"])
def test_one_known_field_decides_the_other(method):
    """Two fields that are tied by a mixture: each component has its own place and its own kind."""
    space = Product({"place": Euclidean((3,)), "kind": Euclidean((2,))})
    centres = TensorDict({"place": draw(2, 3), "kind": torch.tensor([[1.0, -1.0], [-1.0, 1.0]])}, batch_size=[2])
    mixture = Mixture(centres, 0.2, space=space)
    known = TensorDict({"place": torch.ones(1, 3, dtype=torch.bool)}, batch_size=[1])
    for component in (0, 1):
        guide = inpainting(centres[component : component + 1], known, space, method)
        denoise, step = guide(mixture, dpmpp_2m(), range(50))
        x = run(denoise, step, 50, 20, space)
        assert torch.equal(x["place"], centres["place"][component].expand(50, 3))
        right = ((x["kind"] - centres["kind"][component]).abs() < 1).all(1)
        assert right.double().mean() >= {"mmps": 0.95, "repaint": 0.8}[method]


@pytest.mark.parametrize("method", ["repaint", "mmps"])
def test_kept_elements_of_masked_sets_come_out_and_the_sample_stays_in_its_space(method):
    space = Product({"place": ZeroCentred((5, 2)), "pairs": SymmetricPairs((5, 5, 1)), "kind": Euclidean((5, 3))})
    mask = torch.tensor([[True] * 4 + [False], [True] * 5])
    clean = space.noise(map_fields(lambda f: draw(*f.shape), space.empty(2)), mask)
    operator = KeepElements(torch.tensor([[True, True, True, False, False]]), space)
    denoise, step = gaussian(0.0, 0.8), dpmpp_2m()
    if method == "repaint":
        step = repaint(step, operator, clean, 3)
    else:
        denoise = measured(denoise, operator, operator(clean), space)
    x = sample(denoise, space, step, levels(12), indices=range(2), mask=mask)
    assert largest_difference(operator(x), operator(clean)) < 1e-9
    assert largest_difference(x, space.project(x, mask)) < 1e-9
    assert (x["kind"][:, 3] - clean["kind"][:, 3]).abs().min() > 1e-3


@pytest.mark.parametrize("method", ["mmps", "repaint"])
def test_inpainting_keeps_whole_elements_where_entries_depend_on_each_other(method):
    """Places relative to each other, pairs of two of them, kinds; each sample its own, and a field may stay free."""
    space = Product({"place": ZeroCentred((5, 2)), "pairs": SymmetricPairs((5, 5, 1)), "kind": Euclidean((5, 3))})
    clean = space.noise(map_fields(lambda f: draw(*f.shape), space.empty(2)))
    elements = torch.tensor([[True, True, False, True, False], [True, True, True, False, False]])
    pairs = elements[:, :, None] & elements[:, None, :]
    known = {"place": elements[..., None].expand(2, 5, 2), "pairs": pairs[..., None]}
    state = TensorDict({**known, "kind": torch.zeros(2, 5, 3, dtype=torch.bool)}, batch_size=[2])
    operator = keep(state, space)
    assert isinstance(operator, KeepElements)
    assert operator.of == ("place", "pairs")
    constraint = inpainting(clean, state, space, method, resamplings=2)
    assert constraint.least_sizes([0, 1]).tolist() == [4, 3]
    for indices in ([0, 1], [1]):
        denoise, step = constraint(gaussian(0.0, 0.8), dpmpp_2m(), indices)
        x = sample(denoise, space, step, levels(12), indices=indices)
        own = operator.rows(indices)
        assert largest_difference(own(x), own(clean[indices])) < 1e-9
        assert largest_difference(x, space.project(x)) < 1e-9
        assert (x["kind"] - clean["kind"][indices]).abs().min() > 1e-4


def test_upscaling_gives_samples_with_those_means():
    axes = torch.linalg.qr(draw(16, 16)).Q
    prior = Correlated(draw(1, 4, 4), axes @ torch.diag(torch.linspace(0.1, 2, 16)) @ axes.T)
    space, coarse = Euclidean((1, 4, 4)), draw(1, 1, 2, 2, seed=3)
    denoise, step = upscaling(coarse, 2, space)(prior, dpmpp_2m(), range(1500))
    x = run(denoise, step, 1500, 30, space)
    assert (Coarse(2)(x) - coarse).abs().max() < 1e-3
    matrix = Coarse(2)(torch.eye(16).reshape(16, 1, 4, 4)).flatten(1).T
    target = prior.given(matrix, coarse.flatten(), 1e-6)
    flat = Correlated(target.mean.flatten(), target.covariance)
    assert distance(x.flatten(1), flat) < 0.3
    assert distance(x.flatten(1), Correlated(prior.mean.flatten(), prior.covariance)) > 3


def test_the_nearest_state_with_given_means_is_a_projection_within_bounds():
    """Compared with Dykstra's alternating projections onto the plane of the means and onto the box."""
    x, coarse = draw(3, 2, 4, 6) * 2, draw(3, 2, 2, 3, seed=1).clamp(-1, 1)
    low, high = torch.tensor([-1.0, -1.5]).reshape(1, 2, 1, 1), torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    operator = Coarse(2)
    plane = operator.matched(x, coarse)
    assert (operator(plane) - coarse).abs().max() < 1e-12
    shift = plane - x
    torch.testing.assert_close(shift, shift[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))
    found = operator.matched(x, coarse, (low, high))
    assert (operator(found) - coarse).abs().max() < 1e-12
    assert ((found >= low) & (found <= high)).all()
    nearest, left_over = x, torch.zeros_like(x)
    for _ in range(2000):
        inside = (operator.matched(nearest, coarse) + left_over).clamp(low, high)
        left_over = operator.matched(nearest, coarse) + left_over - inside
        nearest = inside
    torch.testing.assert_close(found, nearest, atol=1e-6, rtol=0)


def test_editing_goes_around_classifier_free_guidance():
    centres = torch.tensor([[-1.0, -1.0], [-1.0, 1.0]])
    mixture = Mixture(centres, 0.1, labels=torch.tensor([0, 1]))
    guided = classifier_free(mixture, (ClassCondition("label", ("low", "high")),), 2.0)
    values, known = torch.tensor([[-1.0, 0.0]]), torch.tensor([[True, False]])
    denoise, step = inpainting(values, known, Euclidean((2,)))(guided, dpmpp_2m(), range(2))
    x = sample(denoise, Euclidean((2,)), step, levels(20), indices=range(2), conditions={"label": torch.tensor([0, 1])})
    assert x[0, 1] < -0.5
    assert x[1, 1] > 0.5


# Mistakes


def test_mistakes_get_a_line():
    space = Product({"place": Euclidean((3,)), "kind": Euclidean((2,))})
    full = map_fields(lambda f: f == 0, space.empty(1))
    for known, message in (
        (torch.ones(1, 3) > 0, "known has the fields one unnamed tensor; they should be place, kind"),
        (full, "every entry is known, so there is nothing to fill in"),
        (map_fields(torch.logical_not, full), "no entry is known"),
        (TensorDict({"place": torch.ones(1, 4) > 0}, batch_size=[1]), r"known has the shape \(4,\) in the field place"),
        (TensorDict({"size": torch.ones(1, 4) > 0}, batch_size=[1]), "known has the fields size"),
    ):
        with pytest.raises(UserError, match=message):
            keep(known, space)
    assert isinstance(keep(full.select("place"), space), Keep)
    centred = Product({"place": ZeroCentred((4, 2)), "kind": Euclidean((4, 2))})
    one = map_fields(
        lambda f: torch.zeros_like(f, dtype=torch.bool).index_fill_(1, torch.tensor(0), 1), centred.empty(1)
    )
    part = one.apply(lambda f: f.clone())
    part["kind"][:] = False
    part["kind"][0, 0, 0] = True
    with pytest.raises(ValueError, match="KeepElements"):
        keep(part, centred)
    assert isinstance(keep(one.select("kind"), centred), Keep)
    with pytest.raises(ValueError, match="KeepElements"):
        keep(torch.ones(1, 3, 3).triu(1)[..., None] > 0, SymmetricPairs((3, 3, 1)))
    with pytest.raises(UserError, match=r"the measurement has the shape \(5,\); it should be \(3,\)"):
        measured(gaussian(0, 1), Keep(torch.ones(1, 3) > 0), torch.zeros(1, 5), Euclidean((3,)))
    with pytest.raises(UserError, match="not finite"):
        check_measurement(Coarse(2), torch.full((1, 1, 2), math.nan), Euclidean((1, 4)))
    with pytest.raises(UserError, match="blocks of 3 do not divide a grid of 4x6"):
        upscaling(torch.zeros(1, 1, 2, 2), 3, Euclidean((1, 4, 6)))


def test_no_gradient_is_left_behind():
    weight = torch.ones(1, requires_grad=True)

    def denoise(x, level, conditions=None, mask=None):
        return from_x0(weight * x, x, level)

    x = sample(
        measured(denoise, Keep(KNOWN), Keep(KNOWN)(measurement()), SPACE), SPACE, ddim(), levels(3), indices=range(2)
    )
    assert not x.requires_grad
    assert weight.grad is None
