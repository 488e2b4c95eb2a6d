"""The shapes: how far a point lies outside of each, and how much of a pixel each covers.

Every shape has its centroid at the origin and a radius r that is a measure of its size. Big shapes of the same r cover
areas that differ by less than a factor of 1.7.
"""

import math

import torch
from torch import Tensor

from diffcore_image.scenes.scene import SHAPES

_SQUARE, _TRIANGLE, _DIAMOND, _CROSS, _ARM = 0.9, 1.3, 1.15, 1.1, 0.38
"""Half the side of the square, the distance to the corners of the triangle and of the diamond, the length and half the
width of the arms of the cross, each as a multiple of r."""


def outside(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """How far points (x, y) lie outside of a shape at the origin, in pixels; negative inside. y points downwards.

    The distance to the nearest of the lines through the edges, which is exact except near corners.
    """
    if shape == "circle":
        return (x.square() + y.square()).sqrt() - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - _SQUARE * radius
    if shape == "diamond":
        return (x.abs() + y.abs() - _DIAMOND * radius) / math.sqrt(2)
    if shape == "triangle":  # equilateral, with a corner at the top
        slopes = x.abs() * (math.sqrt(3) / 2) - y / 2
        return torch.maximum(slopes, y) - _TRIANGLE / 2 * radius
    long, wide = _CROSS * radius, _ARM * radius
    upright = torch.maximum(x.abs() - wide, y.abs() - long)
    level = torch.maximum(x.abs() - long, y.abs() - wide)
    return torch.minimum(upright, level)


def coverage(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """How much of the pixels with the centres (x, y) a shape at the origin covers, 0 to 1, which smooths its edges."""
    return (0.5 - outside(shape, x, y, radius)).clamp(0, 1)


def extents() -> tuple[Tensor, Tensor]:
    """How far the shapes of r = 1 reach to the left and up, and to the right and down, each `[5, 2]`."""
    side = _TRIANGLE * math.sqrt(3) / 2
    reach = {
        "circle": (1.0, 1.0, 1.0, 1.0),
        "square": (_SQUARE,) * 4,
        "triangle": (side, _TRIANGLE, side, _TRIANGLE / 2),
        "diamond": (_DIAMOND,) * 4,
        "cross": (_CROSS,) * 4,
    }
    table = torch.tensor([reach[shape] for shape in SHAPES])
    return table[:, :2], table[:, 2:]
