"""What the scripts of this folder share: points whose denoiser is known, a small network, a loop, a table."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions import ClassCondition, Conditions
from diffcore.process.gaussian import perturb
from diffcore.process.schedules import Schedule
from diffcore.states.level import CLEAN, Level
from diffcore.states.spaces import Euclidean
from diffcore.testing.oracles import Mixture

Numbers = dict[str, tuple[float, float]]
"""What a script found: by name, the number that it measured and the exact one."""

PLANE = Euclidean((2,))
LABEL = ClassCondition("label", ("even", "odd"))


def ring(scale: float = 1.0) -> Mixture:
    """Six Gaussians on a circle, labelled in turn; each coordinate has mean 0 and standard deviation `scale`."""
    std, angles = 0.2, torch.arange(6) * math.pi / 3
    radius = math.sqrt(2 * (1 - std**2))
    centres = scale * radius * torch.stack([angles.cos(), angles.sin()], 1)
    return Mixture(centres, scale * std, labels=torch.arange(6) % 2)


def draw(data: Mixture, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`n` points of the data, `[n, 2]`, and the labels of the Gaussians that they come from."""
    assert isinstance(data.centres, Tensor)
    assert data.labels is not None
    weights = torch.ones(len(data.centres)) if data.weights is None else data.weights
    chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
    return data.centres[chosen] + data.std * torch.randn(n, 2, generator=generator), data.labels[chosen]


def mean_log_p(data: Mixture, x: Tensor | None = None, conditions: Conditions | None = None) -> float:
    """The mean log p(x) of samples, nats: that of the data themselves where none are given.

    Samples that have the data's distribution have the data's mean; too wide a spread lowers it, too narrow a one
    raises it.
    """
    if x is None:
        x = draw(data, 200_000, torch.Generator().manual_seed(1))[0]
    return data.log_density(x, CLEAN, conditions).mean().item()


class Batch(NamedTuple):
    """Noisy points with all that is known of them."""

    x: Tensor
    x0: Tensor
    noise: Tensor
    level: Level
    t: Tensor
    conditions: Conditions


def noisy(data: Mixture, schedule: Schedule, size: int, generator: torch.Generator) -> Batch:
    """Points of the data at times that are spread evenly over the schedule."""
    x0, labels = draw(data, size, generator)
    t = (torch.rand((), generator=generator, dtype=torch.float64) + torch.arange(size, dtype=torch.float64) / size) % 1
    level, noise = schedule.level(schedule.log_snr(t)), torch.randn(size, 2, generator=generator)
    return Batch(perturb(x0, noise, level), x0, noise, level, t, {"label": labels})


def fit(
    network: nn.Module,
    data: Mixture,
    schedule: Schedule,
    loss: Callable[[Batch], Tensor],
    steps: int,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train `network` by Adam on the mean of `loss` `[B]` over fresh batches; the rate falls evenly to zero."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 4e-3, betas=(0.9, 0.99), fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        optimizer.zero_grad()
        loss(noisy(data, schedule, 256, generator)).mean().backward()
        optimizer.step()
        after_step(step + 1)
    network.requires_grad_(False)


class MLP(nn.Module):
    """A backbone for points of the plane: two hidden layers, told of the noise and the conditions in each."""

    def __init__(self, outputs: int = 2, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.width = width
        self.layers = nn.ModuleList(nn.Linear(size + width, width) for size in (2, width, width))
        # Points on a ring are told apart by fine features of their place, which the usual small weights start without.
        nn.init.normal_(self.layers[0].weight[:, :2], std=2.0)
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor, conditioning: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = nn.functional.silu(layer(torch.cat([x, conditioning], 1)))
        return self.last(x)


def show(numbers: Mapping[str, tuple[float, float]]) -> None:
    """Print what was found beside what is exact."""
    print(f"{'':56}{'found':>12}{'exact':>12}")
    for name, (found, exact) in numbers.items():
        print(f"{name:56}{found:12.5g}{exact:12.5g}")
