"""log p(x0) by the flow is that of the oracles."""

import math

import pytest
import torch

from diffcore.denoising.denoiser import Denoiser, from_v
from diffcore.errors import UserError
from diffcore.likelihood.flow import basis, bits_per_dimension, log_likelihood, runge_kutta, velocity_and_divergence
from diffcore.nn.dit import DiT
from diffcore.nn.unet import UNet
from diffcore.process.schedules import Cosine, Exploding, LinearBeta, Rectified, variance_preserving
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred
from diffcore.states.state import combine, map_fields
from diffcore.testing.oracles import Correlated, Mixture
from tests.support.draws import draw

WIDE = (-24.0, 20.0)
"""Log-SNRs whose noisy end is the prior to 1e-5."""


def truth(oracle, x0, freedoms, log_snr=WIDE[1], **kwargs):
    """The density of x / alpha at the clean end."""
    level = Level(*(value.item() for value in variance_preserving(torch.tensor(log_snr, dtype=torch.float64))))
    return oracle.log_density(level.alpha * x0, level, **kwargs) + freedoms * math.log(level.alpha)


def mixture_case(std):
    oracle = Mixture(draw(3, 3), std, weights=torch.tensor([0.2, 0.5, 0.3]))
    return oracle, oracle.centres[torch.arange(4) % 3] + std * draw(4, 3, seed=1)


def correlated_case(stds):
    basis = torch.linalg.qr(draw(3, 3))[0]
    oracle = Correlated(draw(3, seed=1), basis @ torch.diag(torch.tensor(stds).double() ** 2) @ basis.T)
    return oracle, oracle.mean + (draw(4, 3, seed=2) * torch.tensor(stds)) @ basis.T


CASES = {
    "mixture 0.3": mixture_case(0.3),
    "mixture 0.02": mixture_case(0.02),
    "correlated": correlated_case([1.5, 0.1, 0.01]),
}
SPACE = Euclidean((3,))


@pytest.mark.parametrize("how", [{"rtol": 1e-6, "atol": 1e-6}, {"steps": 30}], ids=["adaptive", "fixed"])
@pytest.mark.parametrize(("oracle", "x0"), CASES.values(), ids=CASES)
def test_the_oracles_density(oracle, x0, how):
    found = log_likelihood(oracle, x0, SPACE, Cosine(), log_snrs=WIDE, **how)
    assert found.dtype == torch.float64
    assert (found - truth(oracle, x0, 3)).abs().max() < 3 * 2e-5


def place_and_pairs():
    """A mixture in three kinds of fields, with 4, 3 and 2 of 4 elements."""
    space = Product({"place": ZeroCentred((4, 2)), "pairs": SymmetricPairs((4, 4, 2)), "kind": Euclidean((4, 3))})
    mask = torch.arange(4)[None] < torch.tensor([4, 3, 2])[:, None]
    centres = space.noise(map_fields(lambda f: draw(*f.shape, seed=1), space.empty(2)))
    oracle = Mixture(centres, 0.3, space=space)
    noise = space.noise(map_fields(lambda f: draw(*f.shape, seed=2), space.empty(3)), mask)
    x0 = combine((1.0, space.project(centres[torch.tensor([0, 1, 1])], mask)), (0.3, noise))
    return oracle, x0, space, mask


def test_fields_of_fewer_freedoms_and_masks():
    oracle, x0, space, mask = place_and_pairs()
    freedoms = space.degrees_of_freedom(x0, mask)
    assert freedoms.tolist() == [6 + 12 + 12, 4 + 6 + 9, 2 + 2 + 6]
    expected = truth(oracle, x0, freedoms, mask=mask)
    found = log_likelihood(oracle, x0, space, Cosine(), mask=mask, steps=32, log_snrs=WIDE)
    assert ((found - expected) / freedoms).abs().max() < 1e-5
    # The same sample without its absent elements.
    small = x0[1:2].apply(lambda f: f[:, :3, :3] if f.shape[2] == 4 else f[:, :3], batch_size=[1])
    parts = {"place": ZeroCentred((3, 2)), "pairs": SymmetricPairs((3, 3, 2)), "kind": Euclidean((3, 3))}
    centres = oracle.centres.apply(lambda f: f[:, :3, :3] if f.shape[2] == 4 else f[:, :3], batch_size=[2])
    alone = Mixture(Product(parts).project(centres), 0.3, space=Product(parts))
    masked = Mixture(space.project(oracle.centres, mask[1:2].expand(2, 4)), 0.3, space=space)
    first = log_likelihood(alone, small, Product(parts), Cosine(), steps=8, log_snrs=WIDE)
    second = log_likelihood(masked, x0[1:2], space, Cosine(), mask=mask[1:2], steps=8, log_snrs=WIDE)
    torch.testing.assert_close(first, second)


def test_what_a_denoiser_says_outside_the_space_is_left_out():
    oracle, x0, space, mask = place_and_pairs()

    def stray(x, level, conditions=None, mask=None):
        bent = x.apply(lambda f: (f + 0.3).tanh())
        outside = combine((1.0, bent), (-1.0, space.project(bent, mask)))
        # What leaves the space would come back into it, unevenly.
        lost = combine((1.0, x), (-1.0, space.project(x, mask)))
        back = space.project(map_fields(lambda f: f * draw(*f.shape), lost), mask)
        v = oracle(x, level, conditions, mask).v
        return from_v(combine((1.0, v), (2.0, outside), (3.0, back)), x, level)

    runs = [log_likelihood(denoise, x0, space, Cosine(), mask=mask, steps=4) for denoise in (oracle, stray)]
    torch.testing.assert_close(*runs)


def test_signs_give_the_divergence_of_an_isotropic_gaussian_exactly():
    """Its Jacobian is a multiple of the identity, and every z of signs has z . z = D."""
    space = Product({"pairs": SymmetricPairs((3, 3, 1)), "kind": Euclidean((3, 2))})
    mask = torch.tensor([[True, True, True], [True, True, False]])
    oracle = Mixture(space.empty(1).double(), 0.4, space=space)
    x0 = space.noise(map_fields(lambda f: draw(*f.shape), space.empty(2)), mask) * 0.4
    exact, guessed = (
        log_likelihood(oracle, x0, space, Cosine(), mask=mask, steps=8, divergence=divergence)
        for divergence in ("exact", "hutchinson")
    )
    torch.testing.assert_close(guessed, exact)


def test_hutchinson_converges_in_the_metric_of_the_space():
    oracle, x0, space, mask = place_and_pairs()
    options = {"mask": mask, "steps": 8, "log_snrs": WIDE}
    exact = log_likelihood(oracle, x0, space, Cosine(), **options)
    errors = [
        (log_likelihood(oracle, x0, space, Cosine(), divergence="hutchinson", probes=n, **options) - exact).abs().max()
        for n in (1, 200)
    ]
    assert errors[0] > 1e-2
    assert errors[1] < 0.3  # nats in all, of 10 to 30 degrees of freedom


def test_probes_belong_to_samples_and_steps_too():
    oracle, x0 = CASES["correlated"]
    for how in ({"steps": 6}, {}):
        options = {"divergence": "hutchinson", "probes": 5, "seed": 3, **how}
        whole = log_likelihood(oracle, x0, SPACE, Cosine(), **options)
        alone = log_likelihood(oracle, x0[2:3], SPACE, Cosine(), indices=[2], **options)
        torch.testing.assert_close(alone[0], whole[2], rtol=1e-12, atol=1e-12)
        other = log_likelihood(oracle, x0[2:3], SPACE, Cosine(), indices=[1], **options)
        assert (other[0] - whole[2]).abs() > 1e-3


def test_schedules_agree_where_their_ends_are_far_enough():
    """A schedule gives the ends alone; between these the flow is the same."""
    oracle = Mixture(torch.tensor([[0.1, -0.2], [0.3, 0.1]]).double(), 0.8)
    x0 = 0.8 * draw(4, 2)
    schedules = [
        Cosine(-16, 12),
        Cosine(-16, 12, shift=-3),
        Exploding(0.002, 4000),
        Rectified(3e-4),
        LinearBeta(0.1, 30),
    ]
    found = torch.stack([log_likelihood(oracle, x0, Euclidean((2,)), schedule, steps=10) for schedule in schedules])
    assert (found - truth(oracle, x0, 2)).abs().max() < 2 * 1e-3
    assert (found[:3] - truth(oracle, x0, 2)).abs().max() < 2 * 1e-4


def test_fixed_steps_are_of_fifth_order():
    oracle, x0 = mixture_case(0.8)
    exact, *found = (log_likelihood(oracle, x0, SPACE, Cosine(), steps=n) for n in (120, 20, 40))
    errors = [(value - exact).abs().mean().item() for value in found]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(5, abs=0.3)


def test_a_tighter_tolerance_takes_more_evaluations_and_is_closer():
    oracle, x0 = CASES["mixture 0.3"]
    counts, errors = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        seen = []

        def watched(*args, seen=seen):
            seen.append(1)
            return oracle(*args)

        found = log_likelihood(watched, x0, SPACE, Cosine(), log_snrs=WIDE, rtol=tolerance, atol=tolerance)
        counts.append(len(seen))
        errors.append((found - truth(oracle, x0, 3)).abs().max().item())
    assert counts[0] < counts[1] < counts[2] < 300
    assert errors[1] < errors[0] / 5
    assert errors[1] < 3 * 1e-3


def test_the_integrator_is_right_in_time_too():
    """dy/dt = cos(t) y has y = exp(sin t): every sample from its own start, with a slope that knows the time."""
    start = torch.tensor([1.0, 3.0], dtype=torch.float64)
    found = runge_kutta.adaptive(
        lambda t, parts: (t.cos() * parts[0],), (start,), 0.0, 2.0, lambda error, after: error[0].abs() / 1e-9
    )[0]
    torch.testing.assert_close(found, start * math.exp(math.sin(2.0)), rtol=1e-7, atol=0)
    found = runge_kutta.fixed(lambda t, parts: (t.cos() * parts[0],), (start,), 0.0, 2.0, 20)[0]
    torch.testing.assert_close(found, start * math.exp(math.sin(2.0)), rtol=1e-7, atol=0)


def test_a_denoiser_of_no_numbers_is_told_of():
    def broken(x, level, conditions=None, mask=None):
        return from_v(x * math.nan, x, level)

    with pytest.raises(UserError, match="use a larger tolerance or a fixed number of steps"):
        log_likelihood(broken, draw(2, 3), SPACE, Cosine())


class Square(torch.autograd.Function):
    """x^2, whose derivative asks for a layout in memory, which gradients of several directions at once cannot tell."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        gradient.is_contiguous(memory_format=torch.channels_last)
        return 2 * ctx.saved_tensors[0] * gradient


class WithoutBatches(torch.nn.Module):
    width = 16

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(16, 16))

    def forward(self, x, conditioning, mask=None):
        mixed = (x.flatten(1) @ self.weight + 1).reshape(x.shape)
        return Square.apply(mixed) + conditioning.mean(1)[:, None, None, None]


@pytest.mark.parametrize(
    "make", [lambda: UNet(1, 8, (1, 2), 1, 1, attention=True), lambda: DiT(1, (4, 4), 2, 16, 1, 2), WithoutBatches]
)
def test_networks_have_the_divergence_of_their_jacobian(make):
    """Against a Jacobian by differences."""
    torch.manual_seed(0)
    denoiser = Denoiser(make(), ())
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    denoiser.double().requires_grad_(False)
    space, x, level = Euclidean((1, 4, 4)), draw(2, 1, 4, 4), Level(math.sqrt(0.5), math.sqrt(0.5))
    v, found = velocity_and_divergence(denoiser, x, level, space, basis(space, x, None))
    expected = torch.zeros(2, dtype=torch.float64)
    for place in range(16):
        nudge = 1e-4 * torch.eye(16, dtype=torch.float64)[place].reshape(1, 1, 4, 4)
        expected += ((denoiser(x + nudge, level).v - denoiser(x - nudge, level).v) / 2e-4).flatten(1)[:, place]
    assert expected.abs().min() > 0.02
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(v, denoiser(x, level).v)


def test_a_float32_network_meets_the_tolerance():
    torch.manual_seed(0)
    denoiser = Denoiser(DiT(1, (4, 4), 2, 16, 1, 2), ()).requires_grad_(False)
    for parameter in denoiser.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x0 = draw(2, 1, 4, 4)
    single = log_likelihood(denoiser, x0.float(), Euclidean((1, 4, 4)), Cosine())
    double = log_likelihood(denoiser.double(), x0, Euclidean((1, 4, 4)), Cosine(), rtol=1e-7, atol=1e-7)
    assert (single - double).abs().max() < 16 * 3e-4


def test_bits_per_dimension():
    """A uniform density over 256 bins of width 1/128 has 8 bits; a unit Gaussian has log2(sqrt(2 pi e))."""
    freedoms = torch.tensor([3.0])
    uniform = torch.tensor([-3 * math.log(2.0)])
    assert bits_per_dimension(uniform, freedoms, 3 * math.log(1 / 128)).item() == pytest.approx(8)
    entropy = torch.tensor([-1.5 * math.log(2 * math.pi * math.e)])
    assert bits_per_dimension(entropy, freedoms).item() == pytest.approx(2.0471, abs=1e-4)


@pytest.mark.parametrize("schedule", [Cosine(), LinearBeta(), Exploding(), Rectified()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("mean", "std"), [(0.7, 0.4), (0.7, 0.1), (1.0, 1.5)], ids=str)
def test_what_lies_beyond_the_schedule_s_ends_is_made_up_for(schedule, mean, std):
    """With a schedule's own ends, the density of the clean data itself within 5e-4 nats a dimension."""
    oracle = Mixture(torch.full((1, 3), mean, dtype=torch.float64), std)
    x = mean + std * draw(8, 3, seed=4)
    found = log_likelihood(oracle, x, Euclidean((3,)), schedule, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found / 3, oracle.log_density(x, Level(1.0, 0.0)) / 3, rtol=0, atol=5e-4)
