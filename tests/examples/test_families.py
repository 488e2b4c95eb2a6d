"""The families of the benchmark `tests/benchmarks/families.py`: their likelihoods, and the sampler of the PixelCNN."""

import math

import pytest
import torch
from torch.nn import functional

from diffcore.denoising.denoiser import from_x0
from diffcore.states.level import Level
from tests.benchmarks.families import diffusion, gan, judge, pixelcnn, vae

SIDE = 32


def tiny() -> pixelcnn.PixelCNN:
    """A PixelCNN of random weights that are large enough for each pixel to matter."""
    torch.manual_seed(0)
    network = pixelcnn.PixelCNN(4, 2, 8, positions=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.5)
    return network.eval()


def test_the_pixelcnn_draws_with_the_probabilities_of_the_whole_image():
    network, labels, seen = tiny(), torch.tensor([3, 7]), []
    with torch.no_grad():
        pixels = network.draw(labels, torch.Generator().manual_seed(0), seen)
        whole = network(pixels, labels)
    drawn = torch.stack(seen, 2).unflatten(2, (SIDE, SIDE))
    assert whole.std() > 0.3
    torch.testing.assert_close(drawn, whole, atol=2e-5, rtol=1e-5)
    assert pixels.unique().numel() > 50


def test_a_pixel_of_the_pixelcnn_depends_on_earlier_pixels_alone():
    network, labels = tiny(), torch.tensor([3])
    pixels = torch.randint(0, 256, (1, 1, SIDE, SIDE), dtype=torch.uint8)
    changed = pixels.clone()
    changed[0, 0, 10, 12] = 255 - changed[0, 0, 10, 12]
    with torch.no_grad():
        differs = ((network(pixels, labels) - network(changed, labels)).abs() > 1e-6)[0].any(0)
    places = differs.nonzero()
    assert not differs.flatten()[: 10 * SIDE + 13].any()
    assert differs[10, 13]
    assert differs[11, 11]
    assert len(places) > 5


def test_bits_of_the_pixelcnn_are_the_sum_over_its_pixels():
    network, labels = tiny(), torch.tensor([3, 7])
    pixels = torch.randint(0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8)
    with torch.no_grad():
        chances = network(pixels, labels).double().exp()
        found = pixelcnn.bits(network, pixels, labels)
    for number in range(2):
        total = 0.0
        for i in range(SIDE):
            for j in range(SIDE):
                of_pixel = chances[number, :, i, j]
                total -= math.log2(of_pixel[int(pixels[number, 0, i, j])] / of_pixel.sum())
        assert found[number].item() == pytest.approx(total / SIDE**2, rel=1e-5)


def test_the_discretised_logistic_sums_to_one():
    values = torch.arange(256.0) / 127.5 - 1
    for mean, log_scale in ((0.0, -3.0), (-1.3, -1.0), (0.99, -6.0)):
        log_p = vae.log_logistic(values, torch.tensor(mean), torch.tensor(log_scale))
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-4)
    edge = torch.sigmoid(torch.tensor((-1 + 1 / 255 + 1.3) / math.exp(-1))).log()
    assert vae.log_logistic(values[:1], torch.tensor(-1.3), torch.tensor(-1.0)).item() == pytest.approx(edge.item())


def test_more_draws_tighten_the_bound_of_the_vae():
    torch.manual_seed(0)
    network = vae.VAE((4, 4, 4), 8, 3)
    pixels, labels = torch.randint(0, 256, (6, 1, SIDE, SIDE), dtype=torch.uint8), torch.arange(6)
    with torch.no_grad():
        network.painter.first.weight.normal_()  # the image depends on z, so that draws of z differ
        elbo, weighted = vae.bits(network, pixels, labels, draws=20)
        one, same = vae.bits(network, pixels, labels, draws=1)
    assert (weighted < elbo - 1e-4).all()
    torch.testing.assert_close(one, same)


def test_the_excess_of_the_vae_is_the_divergence_of_gaussians():
    """E log q(z | x) - log p(z) = sum (mean^2 + std^2 - 1) / 2 - log std."""
    torch.manual_seed(0)
    network, x, labels = vae.VAE((4, 4, 4), 8, 3), torch.rand(2, 1, SIDE, SIDE), torch.tensor([1, 2])
    with torch.no_grad():
        mean, log_std = network.posterior(network.reader(x) + network.label(labels)).chunk(2, 1)
        expected = ((mean**2 + (2 * log_std).exp() - 1) / 2 - log_std).sum(1)
        _, excess = network.log_weights(x, labels, 500)
    torch.testing.assert_close(excess.mean(0), expected, atol=0.2, rtol=0.1)


def test_the_loss_of_the_critic():
    """A linear critic w . x has the gradient w everywhere, so its penalty is gamma |w|^2."""
    weight = torch.randn(9)
    real, drawn = torch.randn(5, 9), torch.randn(5, 9)
    found = gan.critic_loss(lambda x, labels: x @ weight, real, drawn, torch.zeros(5), 0.3)
    expected = functional.softplus((drawn - real) @ weight).mean() + 0.3 * weight.square().sum()
    torch.testing.assert_close(found, expected)


def test_the_denoiser_of_blurred_data():
    """For data of variance v, E[x0 | x] = alpha v x / (alpha^2 v + sigma^2); blurred data have the variance v + s^2."""
    std, variance = 0.4, 2.0

    def ideal(variance):
        def denoise(x, level, conditions=None, mask=None):
            alpha, sigma = level
            return from_x0(x * alpha * variance / (alpha**2 * variance + sigma**2), x, level)

        return denoise

    x, level = torch.randn(3, 4), Level(0.8, 0.6)
    found, expected = diffusion.blurred(ideal(variance), std)(x, level), ideal(variance + std**2)(x, level)
    torch.testing.assert_close(found.x0, expected.x0)
    torch.testing.assert_close(found.v, expected.v)


def test_points_inside_of_the_balls_of_others():
    """On a line, the ball of each of 0, 1, 2, 3 reaches to its nearest neighbour, that of 10 to 3."""
    balls = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])
    points = torch.tensor([[-0.5], [-1.5], [1.5], [16.0], [18.0]])
    assert judge.inside(points, balls, neighbours=1) == pytest.approx(3 / 5)
