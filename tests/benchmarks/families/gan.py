"""A generative adversarial network with the loss of R3GAN (Huang et al. 2024, arXiv 2501.05441).

The critic scores real images above drawn ones in pairs, and the squared norms of its gradients at real images (R1) and
at drawn ones (R2) are penalised.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.training.averages import power_decay, update

from .convolutions import Painter, Reader
from .model import (
    AVERAGE_WIDTH,
    CLASSES,
    Model,
    Task,
    batches,
    centred,
    in_batches,
    keep,
    kept,
    rate_at,
    size_of,
    to_bytes,
)  # fmt: skip

LATENT = 64


class Generator(nn.Module):
    """Noise `[B, 64]` and labels to images in [-1, 1]."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.painter = Painter(widths, LATENT, 1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return torch.tanh(self.painter(z, labels))


class Critic(nn.Module):
    """The score `[B]` of images for their labels: (w + w_label) . features (Miyato & Koyama 2018)."""

    def __init__(self, widths: tuple[int, int, int], hidden: int) -> None:
        super().__init__()
        self.reader, self.head, self.label = Reader(widths, hidden), nn.Linear(hidden, 1), nn.Embedding(CLASSES, hidden)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.reader(x)
        return self.head(h)[:, 0] + (h * self.label(labels)).sum(1) / h.shape[1] ** 0.5


def critic_loss(critic: Callable[..., Tensor], real: Tensor, drawn: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """E[softplus(D(drawn) - D(real))] + gamma / 2 (E |grad D(real)|^2 + E |grad D(drawn)|^2)."""
    real, drawn = real.detach().requires_grad_(), drawn.detach().requires_grad_()
    scores = critic(real, labels), critic(drawn, labels)
    slopes = torch.autograd.grad(scores[0].sum() + scores[1].sum(), (real, drawn), create_graph=True)
    penalty = sum(slope.square().flatten(1).sum(1) for slope in slopes)
    return (functional.softplus(scores[1] - scores[0]) + gamma / 2 * penalty).mean()


def generator_loss(critic: Callable[..., Tensor], real: Tensor, drawn: Tensor, labels: Tensor) -> Tensor:
    """E[softplus(D(real) - D(drawn))]."""
    return functional.softplus(critic(real, labels) - critic(drawn, labels)).mean()


def model_of(generator: Generator, critic_size: int) -> Model:
    """What the judge needs; a GAN has no likelihood."""

    def draw(labels: Tensor, seed: int) -> Tensor:
        noise = torch.Generator().manual_seed(seed)
        return in_batches(
            lambda part: to_bytes(generator(torch.randn(len(part), LATENT, generator=noise), part)), 500, labels
        )

    return Model({"generator": size_of(generator), "critic": critic_size}, {"samples": draw})


def build(options: dict) -> tuple[Generator, Critic]:
    return Generator(options["widths"]), Critic(options["widths"], options["hidden"])


def train(task: Task, options: dict, steps: int, seed: int, folder: Path) -> Model:
    torch.manual_seed(seed)
    generator, critic = build(options)
    average, draw, rate = copy.deepcopy(generator), batches(task, options["batch"], seed), options["rate"]
    optimizers = [torch.optim.Adam(each.parameters(), lr=rate, betas=(0.0, 0.99)) for each in (critic, generator)]
    for step in range(1, steps + 1):
        pixels, labels = draw()
        real, z = centred(pixels), torch.randn(2, len(labels), LATENT)
        with torch.no_grad():
            drawn = generator(z[0], labels)
        losses = (
            lambda: critic_loss(critic, real, drawn, labels, options["gamma"]),  # noqa: B023
            lambda: generator_loss(critic, real, generator(z[1], labels), labels),  # noqa: B023
        )
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.param_groups[0]["lr"] = rate * rate_at(step, steps)
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        update([*average.parameters()], [*generator.parameters()], power_decay(step, AVERAGE_WIDTH))
    keep(average, folder)
    return model_of(average.eval(), size_of(critic))


def load(options: dict, folder: Path) -> Model:
    generator, critic = build(options)
    return model_of(kept(generator, folder), size_of(critic))
