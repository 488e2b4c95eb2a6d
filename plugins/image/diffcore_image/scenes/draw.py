"""Random scenes: which objects they contain and where these lie."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from diffcore_image.scenes.scene import COLOURS, RELATIONS, SHAPES, SIDE, SIZES, UNKNOWN, Scenes
from diffcore_image.scenes.shapes import extents

RADII = ((3.2, 3.7), (5.2, 5.8))
"""The smallest and the largest radius of small and of big objects, in pixels."""

_MARGIN, _GAP = 1.0, 2.0
"""Pixels between objects and the border, and between two objects, at least."""

_SLANT = 0.4
"""How far the centres of two objects are shifted across their direction, at most, as a part of their distance."""


@dataclass(frozen=True)
class Placed:
    """Where the objects of scenes lie: `radius` `[N, 2]` and `centre` `[N, 2, 2]` (x, y), in pixels."""

    scenes: Scenes
    radius: Tensor
    centre: Tensor


def random_scenes(n: int, generator: Generator) -> Scenes:
    """`n` scenes with one or two objects, in equal parts. Two objects differ in colour, in shape, or in both."""
    two = torch.arange(n) % 2 == 1
    kinds = len(COLOURS) * len(SHAPES)
    first = torch.randint(kinds, (n,), generator=generator)
    second = (first + torch.randint(1, kinds, (n,), generator=generator)) % kinds
    kind = torch.stack([first, second], 1)
    size = torch.randint(len(SIZES), (n, 2), generator=generator)
    relation = torch.randint(len(RELATIONS), (n,), generator=generator)
    exists = torch.stack([torch.ones_like(two), two], 1)
    colour, shape, size = (
        torch.where(exists, attribute, UNKNOWN) for attribute in (kind // len(SHAPES), kind % len(SHAPES), size)
    )
    return Scenes(1 + two.long(), colour, shape, size, torch.where(two, relation, UNKNOWN))


def placed(scenes: Scenes, generator: Generator) -> Placed:
    """Draw where the objects lie, uniformly in the room that they have, and how large they are.

    Two objects lie along the direction of their relation, with a gap of at least 2 pixels. Their centres differ across
    this direction by at most 0.4 of their distance along it, so the relation can always be told.
    """
    n = len(scenes)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator)

    low, high = torch.tensor(RADII)[scenes.size.clamp(min=0)].unbind(-1)
    radius = low + (high - low) * uniform(2)
    # before, after: distances from the centre to the left and the right edge, or to the upper and the lower one
    before, after = (radius[..., None] * extent[scenes.shape.clamp(min=0)] for extent in extents())
    lowest, highest = _MARGIN + before, SIDE - _MARGIN - after
    centre = lowest + (highest - lowest) * uniform(2, 2)
    two = scenes.count == 2
    axis = (scenes.relation >= RELATIONS.index("above")).long()
    leads = torch.isin(scenes.relation, torch.tensor([RELATIONS.index("left"), RELATIONS.index("above")]))
    far = leads.long()  # the object that lies to the right or below
    near, rows = 1 - far, torch.arange(n)
    lengths = (before + after)[rows, :, axis]
    shifts = uniform(2).sort(1).values * (SIDE - 2 * _MARGIN - _GAP - lengths.sum(1))[:, None]
    near_along = _MARGIN + shifts[:, 0] + before[rows, near, axis]
    far_along = _MARGIN + shifts[:, 1] + lengths[rows, near] + _GAP + before[rows, far, axis]
    slant = (2 * uniform() - 1) * _SLANT * (far_along - near_along)
    across = 1 - axis
    far_across = (centre[rows, near, across] + slant).clamp(lowest[rows, far, across], highest[rows, far, across])
    paired = centre.clone()
    paired[rows, near, axis], paired[rows, far, axis] = near_along, far_along
    paired[rows, far, across] = far_across
    return Placed(scenes, radius, torch.where(two[:, None, None], paired, centre))
