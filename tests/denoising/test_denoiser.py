import math

import pytest
import torch
from torch import nn

from diffcore.denoising.conditions import ClassCondition
from diffcore.denoising.conditions.coarse_condition import CoarseGrid
from diffcore.denoising.denoiser import Denoiser, from_eps, from_v, from_x0, moved, velocity
from diffcore.denoising.losses import WEIGHTINGS, weighted_loss
from diffcore.process.gaussian import perturb
from diffcore.process.schedules import Cosine, Exploding
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean
from tests.support.draws import draw


def draw_levels(*values):
    return torch.tensor(values, dtype=torch.float64)


LEVELS = [Level(0.6, 0.8), Level(1.0, 3.0), Level(0.3, 0.7), Level(draw_levels(0.1, 0.9), draw_levels(2.0, 0.1))]


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_views_of_the_truth_agree(level):
    x0, eps = draw(2, 5), draw(2, 5, seed=1)
    x = perturb(x0, eps, level)
    v = velocity(x0, eps, level)
    for found in (from_x0(x0, x, level), from_eps(eps, x, level), from_v(v, x, level)):
        torch.testing.assert_close(found.x0, x0)
        torch.testing.assert_close(found.eps, eps)
        torch.testing.assert_close(found.v, v)
        torch.testing.assert_close(perturb(found.x0, found.eps, level), x)


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_a_prediction_of_the_difference_from_an_estimate_is_one_of_the_state(level):
    x0, eps, estimate = draw(2, 5), draw(2, 5, seed=1), draw(2, 5, seed=2)
    x, rest = perturb(x0, eps, level), x0 - estimate
    noisy = perturb(rest, eps, level)
    for found in (
        from_x0(rest, noisy, level),
        from_eps(eps, noisy, level),
        from_v(velocity(rest, eps, level), noisy, level),
    ):
        whole = moved(found, x, estimate)
        torch.testing.assert_close(whole.x0, x0)
        torch.testing.assert_close(whole.eps, eps)
        torch.testing.assert_close(whole.v, velocity(x0, eps, level))


class Linear(nn.Module):
    """The best prediction of v for data N(0, s^2): x0 = alpha s^2 x / (alpha^2 s^2 + sigma^2)."""

    width, accepts = 4, ("like_state",)

    def __init__(self, std):
        super().__init__()
        self.std, self.level = std, None

    def forward(self, x, conditioning, mask=None, like_state=None):
        alpha, sigma = self.level
        x0 = alpha * self.std**2 * x / (alpha**2 * self.std**2 + sigma**2)
        return from_x0(x0, x, self.level).v


def test_given_a_coarse_grid_the_network_denoises_the_difference_from_it():
    """For states N(m, s^2) about the enlarged grid m, the denoiser gives the mean of x0 given x and m."""
    level, std = Level(0.6, 0.8), 0.3
    network, coarse = Linear(std), CoarseGrid("coarse", (2, 3, 3), 0.0, 2)
    network.level = level
    grid, x = draw(2, 2, 3, 3), draw(2, 2, 6, 6, seed=1)
    given = coarse.values(grid.float())
    mean = nn.functional.interpolate(grid, scale_factor=2, mode="bilinear")
    found = Denoiser(network, (coarse,))(x, level, {"coarse": given.double()}).x0
    gain = level.alpha * std**2 / (level.alpha**2 * std**2 + level.sigma**2)
    torch.testing.assert_close(found, mean + gain * (x - level.alpha * mean), rtol=1e-5, atol=1e-6)
    free = Denoiser(network, (coarse,))(x, level).x0
    torch.testing.assert_close(free, gain * x)


def test_score_is_the_gradient_of_the_log_density():
    """For data at a point c, p(x) = N(alpha c, sigma^2) and its score is known."""
    level, c = Level(0.6, 0.8), draw(1, 5)
    x = draw(1, 5, seed=1).requires_grad_()
    log_density = -(x - level.alpha * c).square().sum() / (2 * level.sigma**2)
    (expected,) = torch.autograd.grad(log_density, x)
    torch.testing.assert_close(from_x0(c, x.detach(), level).score, expected)


class Constant(nn.Module):
    """A backbone that remembers what it was given."""

    width = 16

    def forward(self, x, conditioning, mask=None):
        self.seen = (x, conditioning)
        return torch.zeros_like(x)


def test_the_network_sees_unit_variance_and_log_snr_whatever_the_schedule():
    """One trained model runs under any schedule: equal log-SNR and equal x0, eps give the network equal inputs."""
    backbone = Constant()
    denoiser = Denoiser(backbone, (ClassCondition("label", ("a", "b")),))
    x0, eps = draw(3, 4).float(), draw(3, 4, seed=1).float()
    log_snr = torch.tensor([-3.0, 0.5, 6.0], dtype=torch.float64)
    seen = []
    for schedule in (Cosine(), Exploding()):
        level = schedule.level(log_snr)
        denoiser(perturb(x0, eps, level), level, {"label": torch.tensor([0, 1, 2])})
        seen.append(backbone.seen)
    torch.testing.assert_close(seen[0][0], seen[1][0])
    torch.testing.assert_close(seen[0][1], seen[1][1])
    one_level = Level(*(value[1].item() for value in Cosine().level(log_snr)))
    denoiser(perturb(x0, eps, one_level), one_level, {"label": torch.tensor([0, 1, 2])})
    torch.testing.assert_close(backbone.seen[1][1], seen[0][1][1])


def test_conditions_left_out_are_null():
    backbone = Constant()
    denoiser = Denoiser(backbone, (ClassCondition("label", ("a", "b")),))
    denoiser(draw(3, 4).float(), LEVELS[0])
    left_out = backbone.seen[1]
    denoiser(draw(3, 4).float(), LEVELS[0], {"label": torch.full((3,), 2)})
    torch.testing.assert_close(backbone.seen[1], left_out)


@pytest.mark.parametrize("weighting", ["eps", "x0", "v", "min-snr", "sparse"])
@pytest.mark.parametrize("log_snr", [-9.0, -1.0, 2.0, 9.0])
def test_weightings_are_the_objectives_they_are_named_after(weighting, log_snr):
    level = Cosine().level(torch.full((2,), log_snr, dtype=torch.float64))
    x0, eps, guess = draw(2, 6), draw(2, 6, seed=1), draw(2, 6, seed=2)
    x = perturb(x0, eps, level)
    prediction = from_x0(guess, x, level)

    def mean_square(error):
        return error.square().mean(1)

    expected = {
        "eps": mean_square(prediction.eps - eps),
        "x0": mean_square(guess - x0),
        "v": mean_square(prediction.v - velocity(x0, eps, level)),
        "min-snr": mean_square(guess - x0) * min(math.exp(log_snr), 5.0),
        "sparse": mean_square(guess - x0) * min(4 * (math.exp(log_snr) + 1 / 32), 4.0),
    }[weighting]
    found = weighted_loss(prediction, x0, eps, Euclidean((6,)), weighting)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    assert set(WEIGHTINGS) == {"eps", "x0", "v", "min-snr", "sparse"}


def test_loss_is_the_same_for_every_scaling_of_the_state():
    """The weighting is defined on x0, so a variance-exploding state has the same loss."""
    log_snr = torch.tensor([-2.0, 1.0], dtype=torch.float64)
    x0, eps, guess = draw(2, 6), draw(2, 6, seed=1), draw(2, 6, seed=2)
    losses = []
    for schedule in (Cosine(), Exploding()):
        level = schedule.level(log_snr)
        losses.append(weighted_loss(from_x0(guess, perturb(x0, eps, level), level), x0, eps, Euclidean((6,))))
    torch.testing.assert_close(*losses)
