"""A gated PixelCNN (van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders").

Pixels are drawn one after another, each from 256 probabilities. The vertical stack sees the rows above, the horizontal
stack the pixels to the left and the vertical stack. All convolutions have two taps along the direction of drawing, the
place before and the place itself, and both stacks read images that are shifted by one place. So an activation has to be
kept for one step only, and the same layers compute a whole image, a row, or a pixel.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .model import CLASSES, LEVELS, SIDE, Model, Task, centred, fit, in_batches, keep, kept, size_of

Place = tuple[slice, slice]
"""Rows and columns of an image."""
EVERYWHERE: Place = (slice(None), slice(None))


def gated(x: Tensor) -> Tensor:
    """tanh(a) sigmoid(b) of the halves a, b of the channels."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class Layer(nn.Module):
    """A layer of both stacks of `width` channels."""

    def __init__(self, width: int, positions: bool) -> None:
        super().__init__()
        self.above = nn.Conv2d(width, 2 * width, (2, 3))
        self.beside = nn.Conv2d(width, 2 * width, (1, 2))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.label = nn.Embedding(CLASSES, 4 * width)
        self.position = nn.Parameter(torch.zeros(2 * width, SIDE, SIDE)) if positions else None

    def vertical(self, v: Tensor, before: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The next v and what the horizontal stack gets; `before` `[B, C, 1, W]` is the row above v `[B, C, H, W]`."""
        found = self.above(functional.pad(torch.cat([before, v], 2), (1, 1)))
        found = found + self.label(labels)[:, : found.shape[1], None, None]
        return v + gated(found), self.link(found)

    def horizontal(self, h: Tensor, before: Tensor, linked: Tensor, labels: Tensor, place: Place) -> Tensor:
        """The next h; `before` `[B, C, H, 1]` is the column to the left of h `[B, C, H, W]`."""
        found = self.beside(torch.cat([before, h], 3)) + linked
        found = found + self.label(labels)[:, found.shape[1] :, None, None]
        if self.position is not None:
            found = found + self.position[:, *place]
        return h + self.out(gated(found))


class PixelCNN(nn.Module):
    """log p of the values of all pixels, given the pixels before them and the label."""

    def __init__(self, width: int, depth: int, head: int, positions: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, width, 1)
        self.layers = nn.ModuleList(Layer(width, positions) for _ in range(depth))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, head, 1), nn.ReLU(), nn.Conv2d(head, LEVELS, 1))

    def read(self, pixels: Tensor) -> Tensor:
        """Features of bytes; the second input says that there is a pixel, which there is not beyond the border."""
        x = centred(pixels)
        return self.first(torch.cat([x, torch.ones_like(x)], 1))

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Logits `[B, 256, 32, 32]`."""
        features = self.read(pixels)
        v, h = functional.pad(features[:, :, :-1], (0, 0, 1, 0)), functional.pad(features[..., :-1], (1, 0))
        for layer in self.layers:
            row, column = torch.zeros_like(v[:, :, :1]), torch.zeros_like(h[..., :1])
            v, linked = layer.vertical(v, row, labels)
            h = layer.horizontal(h, column, linked, labels, EVERYWHERE)
        return self.head(h)

    def draw(self, labels: Tensor, generator: torch.Generator, seen: list[Tensor] | None = None) -> Tensor:
        """Images `[B, 1, 32, 32]`, drawn row by row and pixel by pixel.

        Each layer keeps what its inputs were in the row above and at the pixel to the left. The logits of each pixel,
        `[B, 256]`, are added to the list `seen`.
        """
        pixels = torch.zeros(len(labels), 1, SIDE, SIDE, dtype=torch.uint8)
        row = self.first.weight.new_zeros(len(labels), self.first.out_channels, 1, SIDE)
        rows_above = [torch.zeros_like(row) for _ in self.layers]
        for i in range(SIDE):
            v = self.read(pixels[:, :, i - 1 : i]) if i else row
            links = []
            for number, layer in enumerate(self.layers):
                rows_above[number], (v, linked) = v, layer.vertical(v, rows_above[number], labels)
                links.append(linked)
            left = [torch.zeros_like(row[..., :1]) for _ in self.layers]
            for j in range(SIDE):
                here = slice(i, i + 1), slice(j, j + 1)
                h = self.read(pixels[:, :, i : i + 1, j - 1 : j]) if j else row[..., :1]
                for number, layer in enumerate(self.layers):
                    linked = links[number][..., j : j + 1]
                    left[number], h = h, layer.horizontal(h, left[number], linked, labels, here)
                logits = self.head(h)[..., 0, 0]
                if seen is not None:
                    seen.append(logits)
                pixels[:, 0, i, j] = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0].to(torch.uint8)
        return pixels


def bits(network: PixelCNN, pixels: Tensor, labels: Tensor) -> Tensor:
    """Bits per dimension, `[B]`: the mean over the pixels of -log2 p(pixel | the pixels before it)."""
    nats = functional.cross_entropy(network(pixels, labels), pixels[:, 0].long(), reduction="none")
    return nats.flatten(1).mean(1) / math.log(2)


def model_of(network: PixelCNN) -> Model:
    """What the judge needs."""

    def draw(labels: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return in_batches(lambda part: network.draw(part, generator), 500, labels)

    return Model(
        {"all": size_of(network)},
        {"samples": draw},
        {"exact": lambda *given: in_batches(lambda *part: bits(network, *part), 20, *given)},
    )


def build(options: dict) -> PixelCNN:
    network = PixelCNN(options["width"], options["depth"], options["head"], options["positions"])
    return network.to(memory_format=torch.channels_last)


def train(task: Task, options: dict, steps: int, seed: int, folder: Path) -> Model:
    torch.manual_seed(seed)
    network = build(options)
    average = fit(
        network, lambda *batch: bits(network, *batch).mean(), task, steps, seed,
        batch=options["batch"], rate=options["rate"],
    )  # fmt: skip
    keep(average, folder)
    return model_of(average)


def load(options: dict, folder: Path) -> Model:
    return model_of(kept(build(options), folder))
