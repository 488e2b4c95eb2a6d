"""A variational autoencoder whose decoder gives each pixel a discretised logistic distribution, with a learned scale.

Kingma & Welling 2014; the distribution is that of Kingma et al. 2016, and the bound with several draws of z that of
Burda et al. 2016.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .convolutions import Painter, Reader
from .model import CLASSES, LEVELS, SIDE, Model, Task, centred, fit, in_batches, keep, kept, size_of, to_bytes

IMPORTANCE_DRAWS = 100


def log_logistic(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """The log-probability of bytes, given as floats in [-1, 1], whose outer bins reach to infinity.

    With a = (x + h - mean) / s and b = (x - h - mean) / s for half a bin h, it is
    log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - e^(b - a)).
    """
    half, scale = 1 / (LEVELS - 1), log_scale.exp()
    upper = functional.logsigmoid((x + half - mean) / scale)
    lower = functional.logsigmoid((mean - x + half) / scale)
    inner = upper + lower + torch.log(-torch.expm1(-2 * half / scale))
    return torch.where(x < -1 + half, upper, torch.where(x > 1 - half, lower, inner))


class VAE(nn.Module):
    """The encoder q(z | x, label) = N(mean, std^2) and the decoder p(x | z, label)."""

    def __init__(self, widths: tuple[int, int, int], hidden: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.reader, self.label = Reader(widths, hidden), nn.Embedding(CLASSES, hidden)
        self.posterior = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * latent))
        self.painter = Painter(widths, latent, 2)

    def decoded(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the logarithm of the scale of each pixel, `[B, 1, 32, 32]` each."""
        mean, log_scale = self.painter(z, labels).chunk(2, 1)
        return mean, (log_scale - 2).clamp(-6, 2)

    def log_weights(self, x: Tensor, labels: Tensor, draws: int) -> tuple[Tensor, Tensor]:
        """log p(x | z) and log q(z | x) - log p(z) of draws of z from q, `[draws, B]` each."""
        mean, log_std = self.posterior(self.reader(x) + self.label(labels)).chunk(2, 1)
        log_std = log_std.clamp(-8, 3)  # early steps may overflow
        noise = torch.randn(draws, *mean.shape)
        z = mean + log_std.exp() * noise
        excess = (z.square() / 2 - noise.square() / 2 - log_std).sum(2)
        found = self.decoded(z.flatten(0, 1), labels.repeat(draws))
        likelihood = log_logistic(x.repeat(draws, 1, 1, 1), *found).flatten(1).sum(1)
        return likelihood.unflatten(0, (draws, -1)), excess


def bits(network: VAE, pixels: Tensor, labels: Tensor, draws: int = IMPORTANCE_DRAWS) -> tuple[Tensor, Tensor]:
    """Two upper bounds of the bits per dimension, `[B]` each: the mean of `draws` ELBOs, and importance-weighted."""
    log_likelihood, excess = network.log_weights(centred(pixels), labels, draws)
    log_weight, unit = log_likelihood - excess, -SIDE * SIDE * math.log(2)
    return log_weight.mean(0) / unit, (log_weight.logsumexp(0) - math.log(draws)) / unit


def model_of(network: VAE) -> Model:
    """What the judge needs."""

    def draw(noisy: bool, labels: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)

        def some(part: Tensor) -> Tensor:
            mean, log_scale = network.decoded(torch.randn(len(part), network.latent, generator=generator), part)
            u = torch.rand(mean.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
            return to_bytes(mean + log_scale.exp() * torch.logit(u) if noisy else mean)

        return in_batches(some, 500, labels)

    def measured(which: int, pixels: Tensor, labels: Tensor) -> Tensor:
        torch.manual_seed(0)
        return in_batches(lambda *part: bits(network, *part)[which], 20, pixels, labels)

    return Model(
        {"all": size_of(network)},
        {"means": lambda *given: draw(False, *given), "with noise": lambda *given: draw(True, *given)},
        {"importance-weighted": lambda *given: measured(1, *given), "ELBO": lambda *given: measured(0, *given)},
    )


def build(options: dict) -> VAE:
    return VAE(options["widths"], options["hidden"], options["latent"])


def train(task: Task, options: dict, steps: int, seed: int, folder: Path) -> Model:
    torch.manual_seed(seed)
    network = build(options)

    def loss(pixels: Tensor, labels: Tensor) -> Tensor:
        log_likelihood, excess = network.log_weights(centred(pixels), labels, 1)
        return (options["beta"] * excess - log_likelihood).mean() / (SIDE * SIDE)

    average = fit(network, loss, task, steps, seed, batch=options["batch"], rate=options["rate"])
    keep(average, folder)
    return model_of(average)


def load(options: dict, folder: Path) -> Model:
    return model_of(kept(build(options), folder))
