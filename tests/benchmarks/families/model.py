"""What all families share: the data, the trained model as the judge sees it, and the loop of training."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from diffcore.training.averages import power_decay, update

CLASSES, SIDE, LEVELS = 10, 32, 256
"""The digits, and the height, the width and the number of values of their pixels."""

AVERAGE_WIDTH = 0.1
"""The relative width of the moving average of the weights; that of `train.ema_width` of diffcore."""

Draw = Callable[[Tensor, int], Tensor]
"""Draws an image, uint8 `[n, 1, 32, 32]`, for each of the labels `[n]`, with the random numbers of a seed."""

Bits = Callable[[Tensor, Tensor], Tensor]
"""The bits per dimension `[n]` of images, uint8 `[n, 1, 32, 32]`, given their labels `[n]`."""


@dataclass(frozen=True)
class Task:
    """The images to learn, uint8 `[N, 1, 32, 32]`, their labels `[N]`, and the folder that they were read from."""

    pixels: Tensor
    labels: Tensor
    root: str


@dataclass(frozen=True)
class Model:
    """A trained model.

    * `parameters`: how many parameters are trained, by part.
    * `draws`: ways to draw samples, by name; the first one is that of the table.
    * `bits`: bits per dimension, by name; the first one is that of the table.
    """

    parameters: Mapping[str, int]
    draws: Mapping[str, Draw]
    bits: Mapping[str, Bits] = field(default_factory=dict)


def size_of(network: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def centred(pixels: Tensor) -> Tensor:
    """Bytes as floats in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_bytes(x: Tensor) -> Tensor:
    """Floats in [-1, 1] as bytes, rounded and clamped."""
    return ((x + 1) * 127.5).round().clamp(0, LEVELS - 1).to(torch.uint8)


def rate_at(step: int, steps: int, warmup: int = 100, cooldown: float = 0.4) -> float:
    """The factor of the learning rate: it rises over the first 100 steps, and falls to zero over the last 40 %."""
    return min(1.0, step / min(warmup, 1 + steps // 2), (steps - step + 1) / (cooldown * steps))


def batches(task: Task, size: int, seed: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that returns the next random batch of images and labels."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(task.pixels), (size,), generator=generator)
        return task.pixels[chosen], task.labels[chosen]

    return draw


def fit(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    task: Task,
    steps: int,
    seed: int,
    *,
    batch: int,
    rate: float,
) -> nn.Module:
    """Minimise `loss` of images and labels with Adam, and return the network with the moving average of its weights."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    average, draw = copy.deepcopy(network), batches(task, batch, seed)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = rate * rate_at(step, steps)
        value = loss(*draw())
        if not value.isfinite():
            raise FloatingPointError(f"the loss is {value.item()} in step {step}")
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        update([*average.parameters()], [*network.parameters()], power_decay(step, AVERAGE_WIDTH))
    return average.eval()


def keep(network: nn.Module, folder: Path) -> None:
    """Write the weights into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "weights.pt")


def kept(network: nn.Module, folder: Path) -> nn.Module:
    """The network with the weights in a folder."""
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return network.eval()


def in_batches(function: Callable[..., Tensor], size: int, *tensors: Tensor) -> Tensor:
    """`function` of batches of `size` rows, concatenated."""
    with torch.no_grad():
        return torch.cat([function(*parts) for parts in zip(*(each.split(size) for each in tensors), strict=True)])
