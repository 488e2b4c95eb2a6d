"""Scenes to pictures, with smooth edges."""

import torch
from torch import Tensor

from diffcore_image.scenes.draw import Placed
from diffcore_image.scenes.scene import BACKGROUND, COLOURS, SHAPES, SIDE
from diffcore_image.scenes.shapes import coverage

_AT_ONCE = 4096
"""Objects that are rendered together, which bounds the memory."""


def render(placed: Placed) -> Tensor:
    """Pictures of placed scenes, uint8 `[N, 3, 32, 32]`.

    A pixel is the mean of the background and the colours of the objects, weighted by the part of it that each covers.
    Objects do not overlap.
    """
    scenes = placed.scenes
    covered = torch.zeros(len(scenes), 2, SIDE, SIDE)
    for index, shape in enumerate(SHAPES):
        for rows in (scenes.shape == index).nonzero().split(_AT_ONCE):
            scene, thing = rows.unbind(1)
            covered[scene, thing] = _covered(shape, placed.centre[scene, thing], placed.radius[scene, thing])
    background = torch.tensor(BACKGROUND, dtype=torch.float32)
    colours = torch.tensor([*COLOURS.values()], dtype=torch.float32)[scenes.colour.clamp(min=0)]
    pixels = background[:, None, None] + torch.einsum("ntc,ntyx->ncyx", colours - background, covered)
    return pixels.round().clamp(0, 255).to(torch.uint8)


def _covered(shape: str, centre: Tensor, radius: Tensor) -> Tensor:
    """How much of each pixel objects of one shape cover, `[K, 32, 32]`."""
    pixels = torch.arange(SIDE) + 0.5
    x = pixels[None, None, :] - centre[:, 0, None, None]
    y = pixels[None, :, None] - centre[:, 1, None, None]
    return coverage(shape, x, y, radius[:, None, None])
