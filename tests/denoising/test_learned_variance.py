"""Variances that a network learns: their optimum in closed form, the sampling that uses them, and training."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from diffcore.denoising.denoiser import Denoiser, Prediction, from_v
from diffcore.denoising.losses import VARIANCE_STEPS, VARIANCE_WEIGHT, hybrid_loss, variance_loss, weighted_loss
from diffcore.nn.dit import DiT
from diffcore.nn.unet import UNet
from diffcore.plugins.records import Component, Modality
from diffcore.plugins.registry import Provided, load
from diffcore.process.gaussian import perturb
from diffcore.process.schedules import Cosine, Exploding, Rectified
from diffcore.process.variances import log_ratio
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, find_checkpoint, read_tensors
from diffcore.runs.composing import compose
from diffcore.runs.folder import RunFolder, read_log
from diffcore.runs.model import build_data, build_model
from diffcore.sampling.guidance import classifier_free
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import Move, ddpm
from diffcore.sampling.timesteps import uniform_in_log_snr
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred
from diffcore.states.state import map_fields
from diffcore.tasks.objective import step_loss
from diffcore.testing.oracles import gaussian
from diffcore.training.loop import Callbacks, train
from tests.support.draws import draw
from tests.support.toy import TOY, ToyBackbone, ToyNet

STD = 0.5
SCHEDULES = [Cosine(-8, 8), Rectified(0.01), Exploding(0.02, 50)]


def true_fraction(now, then):
    """For N(m, STD^2), Var(x_s | x_t) = q^2 + of_x0^2 Var(x0 | x_t), as a fraction between the bounds."""
    noisy, clean = (torch.tensor(level.log_snr, dtype=torch.float64) for level in (now, then))
    spread = STD**2 * now.sigma**2 / (now.alpha**2 * STD**2 + now.sigma**2)
    return (torch.log1p((clean.exp() - noisy.exp()) * spread) / log_ratio(noisy, clean)).item()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_least_term_is_at_the_variance_of_the_truth(schedule):
    space, n = Euclidean((50_000,)), 50_000
    log_snr = torch.tensor([-4.0, 0.5, 3.0], dtype=torch.float64)
    level, clean = schedule.level(log_snr), log_snr + torch.tensor([0.3, 1.5, 0.05], dtype=torch.float64)
    x0, noise = STD * draw(3, n), draw(3, n, seed=1)
    x = perturb(x0, noise, level)
    output = gaussian(0.0, STD)(x, level).output
    scale = log_ratio(log_snr, clean) ** -2  # the curvature of the terms
    fraction = torch.full((3, 1), 0.9, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([fraction], max_iter=60, tolerance_grad=1e-12, tolerance_change=1e-14)

    def close():
        optimizer.zero_grad()
        spread = fraction.expand(3, n)
        loss = variance_loss(Prediction(x, level, output, "x0", spread), x0, noise, space, clean)
        loss = (loss * scale).sum()
        loss.backward()
        return loss

    optimizer.step(close)
    expected = [
        true_fraction(*(Level(*(v.item() for v in schedule.level(end))) for end in ends))
        for ends in zip(log_snr, clean, strict=True)
    ]
    assert min(expected) > 0
    assert max(expected) < 1
    assert fraction.flatten().tolist() == pytest.approx(expected, abs=0.03)


def test_the_mean_is_left_to_the_denoising_loss():
    space, level = Euclidean((4,)), Cosine().level(torch.tensor([-1.0, 2.0], dtype=torch.float64))
    clean = torch.tensor([-0.8, 2.3], dtype=torch.float64)
    x0, noise = draw(2, 4), draw(2, 4, seed=1)
    x = perturb(x0, noise, level)
    output, fraction = draw(2, 4, seed=2).requires_grad_(), torch.full((2, 4), 0.3).double().requires_grad_()
    prediction = from_v(output, x, level)
    prediction = Prediction(x, level, output, "v", fraction)
    term = variance_loss(prediction, x0, noise, space, clean)
    whole = hybrid_loss(prediction, x0, noise, space, clean)
    simple = weighted_loss(prediction, x0, noise, space)
    torch.testing.assert_close(whole, simple + VARIANCE_WEIGHT * VARIANCE_STEPS * term)
    mean, spread = torch.autograd.grad(term.sum(), (output, fraction), allow_unused=True)
    assert mean is None or (mean == 0).all()
    assert spread.abs().min() > 0
    (of_whole,) = torch.autograd.grad(whole.sum(), output, retain_graph=True)
    (of_simple,) = torch.autograd.grad(simple.sum(), output)
    assert torch.equal(of_whole, of_simple)


def test_losses_are_the_terms_of_the_bound_in_every_scaling():
    log_snr, clean = torch.tensor([-2.0, 4.0]).double(), torch.tensor([-1.5, 4.1]).double()
    x0, noise, fraction, wrong = draw(2, 6), draw(2, 6, seed=1), torch.rand(2, 6).double(), draw(2, 6, seed=2)
    found = []
    for schedule in SCHEDULES:
        level = schedule.level(log_snr)
        prediction = Prediction(perturb(x0, noise, level), level, wrong, "x0", fraction)
        found.append(variance_loss(prediction, x0, noise, Euclidean((6,)), clean))
    ratio = log_ratio(log_snr, clean)[:, None]
    gained = (clean.exp() - log_snr.exp())[:, None]
    terms = torch.exp(-fraction * ratio) * (gained * (wrong - x0) ** 2 + 1) - 1 + fraction * ratio
    for value in found:
        torch.testing.assert_close(value, terms.mean(1) / 2)


# Sampling


def learned(levels):
    """The oracle of N(0, STD^2) with the variance of the true reverse step."""
    following = dict(pairwise(levels))

    def denoise(x, level, conditions=None, mask=None):
        then = following[level]
        fraction = true_fraction(level, then) if then.sigma > 0 else 0.5
        output = gaussian(0.0, STD)(x, level).output
        return Prediction(x, level, output, "x0", map_fields(lambda f: torch.full_like(f, fraction), x))

    return denoise


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_few_steps_with_the_true_variance_have_the_data_s_variance(schedule):
    """Step by step, in closed form: x_s = a x_t + std z, so the variances follow without a draw."""
    log_snrs = torch.linspace(*sorted(schedule.log_snr(torch.tensor([0.0, 1.0])).tolist()), 6)
    levels = levels_of(schedule, log_snrs)[:-1]
    ends = {}
    for name, denoise, option in (
        ("learned", learned([*levels, Level(1.0, 0.0)]), 0.0),
        ("lower", gaussian(0.0, STD), 0.0),
        ("upper", gaussian(0.0, STD), 1.0),
    ):
        variance = levels[0].alpha ** 2 * STD**2 + levels[0].sigma ** 2
        for now, then in pairwise(levels):
            one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
            slope = ddpm(option)(denoise, one, Move(now, then, lambda zero=zero: zero)).item()
            fresh = ddpm(option)(denoise, zero, Move(now, then, lambda one=one: one)).item()
            variance = slope**2 * variance + fresh**2
        ends[name] = variance / (levels[-1].alpha ** 2 * STD**2 + levels[-1].sigma ** 2)
    assert ends["learned"] == pytest.approx(1, abs=1e-9)
    assert ends["lower"] < 0.95
    assert ends["upper"] > 1.05


def test_sampling_draws_with_it():
    levels = levels_of(Cosine(-8, 8), uniform_in_log_snr(Cosine(-8, 8), 6))
    run = {"space": Euclidean((40_000,)), "levels": levels, "indices": [0]}
    assert sample(learned(levels), step=ddpm(), **run).std().item() == pytest.approx(STD, rel=0.01)
    assert abs(sample(gaussian(0.0, STD), step=ddpm(0.0), **run).std().item() - STD) > 0.03 * STD


def test_each_element_has_its_own_and_noise_stays_in_the_space():
    space = Product({"place": ZeroCentred((4, 2)), "pairs": SymmetricPairs((4, 4, 1)), "kind": Euclidean((4, 3))})
    mask = torch.tensor([[True] * 4, [True, True, True, False]])

    def denoise(x, level, conditions=None, mask=None):
        fraction = map_fields(lambda f: torch.linspace(-0.5, 1.5, f.numel()).reshape(f.shape).to(f), x)
        return Prediction(x, level, map_fields(lambda f: 0.5 * f, x), "x0", fraction)

    levels = levels_of(Cosine(), uniform_in_log_snr(Cosine(), 5))[:-1]
    x = sample(denoise, space, ddpm(), levels, indices=range(2), mask=mask, keep_noise=True)
    torch.testing.assert_close(space.project(x, mask), x, rtol=1e-5, atol=1e-5)
    # One step, element by element.
    now, then = levels[:2]
    still, moved = (
        ddpm()(denoise, x, Move(now, then, lambda by=by: map_fields(lambda f: by * torch.ones_like(f), x)))
        for by in (0.0, 1.0)
    )
    lower, upper = (
        ddpm(option)(
            lambda x, level: Prediction(x, level, map_fields(lambda f: 0.5 * f, x), "x0"),
            x,
            Move(now, then, lambda: map_fields(torch.ones_like, x)),
        )
        for option in (0.0, 1.0)
    )
    fraction = denoise(x, now).variance
    for name in fraction.keys():
        low, high = lower[name] - still[name], upper[name] - still[name]
        torch.testing.assert_close(
            moved[name] - still[name], low * (high / low) ** fraction[name], rtol=1e-3, atol=1e-4
        )


def test_guidance_keeps_the_conditional_variance():
    def denoise(x, level, conditions=None, mask=None):
        fraction = conditions["label"][:, None].to(x) * torch.ones_like(x)
        return Prediction(x, level, x, "x0", fraction)

    from diffcore.denoising.conditions import ClassCondition

    guided = classifier_free(denoise, (ClassCondition("label", ("a", "b")),), 3.0)
    found = guided(draw(2, 3), Level(0.6, 0.8), {"label": torch.tensor([0, 1])}).variance
    assert found.tolist() == [[0.0] * 3, [1.0] * 3]


# Networks


NETWORKS = {
    "unet": lambda **options: UNet(3, 8, (1, 2), 1, 2, **options),
    "dit": lambda **options: DiT(3, (8, 8), 4, 32, 2, 4, **options),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_networks_give_a_pair_that_starts_half_way(make):
    torch.manual_seed(0)
    network = make(learned_variance=True)
    x, c = torch.randn(2, 3, 8, 8), torch.randn(2, network.width)
    output, variance = network(x, c)
    assert (output == 0).all()
    assert (variance == 0.5).all()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    output, variance = network(x, c)
    plain = make()
    state = network.state_dict()
    last = [name for name in state if name.startswith("output.")]
    channels = len(state[last[0]]) // 2
    state.update({name: state[name][:channels] for name in last})
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(x, c), output)
    state.update({name: network.state_dict()[name][channels:] for name in last})
    state.update({name: torch.zeros_like(state[name]) for name in state if name.startswith("direct.")})
    plain.load_state_dict(state)
    torch.testing.assert_close((plain(x, c) + 1) / 2, variance)
    prediction = Denoiser(network, ())(x, Level(0.6, 0.8))
    assert prediction.variance.shape == x.shape


# Training


class Two(ToyBackbone):
    """The toy's network, with a second one for the variance."""

    def __init__(self, width, dropout):
        super().__init__(width, dropout)
        self.second = ToyBackbone(width, dropout)

    def forward(self, x, conditioning, mask=None):
        fractions = self.second(x, conditioning, mask).apply(lambda f: (f + 1) / 2)
        return super().forward(x, conditioning, mask), fractions


def registry():
    found = load([])
    both = (*TOY.denoisers, Component("two", "with a variance", lambda o, space: Two(o.width, o.dropout), ToyNet))
    parts = {name: getattr(TOY, name) for name in TOY.__dataclass_fields__} | {"denoisers": both}
    found.modalities["toy"] = Provided(Modality(**parts), "diffcore-toy", "1.0")
    return found


REGISTRY = registry()


def start(path, checkpoint=None, stop_at=None, **train_values):
    import signal

    values = {"steps": 30, "batch_size": 32, "log_every": 5, **train_values}
    settings = compose(REGISTRY, "toy", file={"train": values, "denoiser": {"name": "two"}})
    data = build_data(settings, REGISTRY)
    path.mkdir(exist_ok=True)
    interrupt = lambda line: signal.raise_signal(signal.SIGINT) if line.step == stop_at else None  # noqa: E731
    model = build_model(settings, data.facts, REGISTRY)
    outcome = train(RunFolder(path), settings, model, data, Callbacks(log=interrupt), checkpoint)
    return RunFolder(path), outcome, settings, data


def test_a_run_that_learns_variances_resumes_bit_for_bit(tmp_path):
    whole, *_ = start(tmp_path / "whole")
    broken, outcome, *_ = start(tmp_path / "broken", stop_at=15)
    assert outcome.interrupted
    start(tmp_path / "broken", find_checkpoint(broken))
    for name in (MODEL, EMA, TRAINING):
        first, second = (read_tensors(find_checkpoint(run), name) for run in (whole, broken))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_training_takes_the_hybrid_loss_and_learns_the_variance(tmp_path):
    """What is learned is better than where it started, on noise that training did not see, with the same means."""
    run, outcome, settings, data = start(tmp_path / "run", steps=300, learning_rate=2e-2, log_every=50)
    model = outcome.model
    losses = [row["loss"] for row in read_log(run)]
    assert losses[-1] < losses[0]
    learned_network = model.denoiser.backbone.second

    def term(fraction=None):
        """The loss over some batches, with the learned variance or with one fraction for all."""

        class Fixed(nn.Module):
            def forward(self, x, conditioning, mask=None):
                return x.apply(lambda f: torch.full_like(f, 2 * fraction - 1))

        model.denoiser.backbone.second = learned_network if fraction is None else Fixed()
        with torch.no_grad():
            return sum(step_loss(model, settings, data, 10_000 + k).item() for k in range(10)) / 10

    # These means are far from perfect, so the upper bound is the best of all constants.
    gained, possible = term(0.5) - term(), term(0.5) - term(1.0)
    assert possible > 0
    assert gained > 0.5 * possible


def test_the_u_net_trains_with_it():
    """A few steps of Adam on points of two values: the loss falls and all weights move."""
    torch.manual_seed(0)
    denoiser = Denoiser(UNet(1, 8, (1,), 1, 1, learned_variance=True), ())
    before = {name: value.clone() for name, value in denoiser.backbone.named_parameters()}
    optimizer = torch.optim.Adam(denoiser.parameters(), 3e-3)
    schedule, space, losses = Cosine(), Euclidean((1, 4, 4)), []
    for _ in range(60):
        x0, noise = torch.randn(64, 1, 1, 1).sign().expand(64, 1, 4, 4), torch.randn(64, 1, 4, 4)
        t = torch.rand(64, dtype=torch.float64)
        level, clean = schedule.level(schedule.log_snr(t)), schedule.log_snr((t - 1 / VARIANCE_STEPS).clamp(min=0))
        loss = hybrid_loss(denoiser(perturb(x0, noise, level), level), x0, noise, space, clean).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert all((value != before[name]).any() for name, value in denoiser.backbone.named_parameters())
