"""Reads a scene off a picture: colours by their directions from the background, shapes and sizes by templates.

Nothing here is trained. A pixel that is covered to the part a by an object of the colour c has the value
b + a (c - b), where b is the background. So the colour of an object is the direction of b - pixel, and a, the part
that is covered, is the length along it.

1. Each pixel gets the colour whose direction is nearest to it, and a; it belongs to an object if a >= 1/2.
2. Objects are connected pixels. What touches but has two colours is taken apart.
3. The shape and the radius of an object are those of the template whose overlap with it, the sum of the smaller
   values of a divided by the sum of the larger ones, is greatest. It is `UNKNOWN` below an overlap of 0.7.
4. The relation of two objects is the side on which the centroid of the first one lies, along the axis on which the
   centroids are further apart.
"""

from functools import cache

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from diffcore_image.scenes.draw import RADII
from diffcore_image.scenes.scene import BACKGROUND, COLOURS, RELATIONS, SHAPES, SIDE, UNKNOWN, Scenes
from diffcore_image.scenes.shapes import coverage

LEAST_PIXELS = 8
"""Connected pixels that are fewer are not an object. The smallest object that is rendered has about 25."""

LEAST_OVERLAP = 0.7
"""The overlap with a template from which on the shape of an object is known."""

_SECOND_COLOUR = 0.2
"""What touches is taken apart if a second colour has this part of its pixels."""

_REACH = 9
"""Pixels from the centroid of an object to the edges of its window."""

_STEPS = 4
"""Templates are made for centroids at so many places within a pixel, in each direction."""

_LARGEST_SMALL = (RADII[0][1] + RADII[1][0]) / 2
"""The radius in pixels that separates small objects from big ones."""


def judge(pixels: Tensor) -> Scenes:
    """The scenes of pictures, uint8 `[N, 3, 32, 32]`.

    `count` is the number of objects, which may be 0, or more than 2. The other attributes are those of the two largest
    objects, the larger one first.
    """
    part, nearest = _parts(pixels)
    which = _objects(part.gather(1, nearest[:, None])[:, 0] >= 0.5, nearest)
    place = (which > 0).nonzero()
    number = which[place.unbind(1)] - 1
    objects = int(which.max()) if len(place) else 0
    picture = torch.zeros(objects, dtype=torch.int64)
    picture[number] = place[:, 0]
    votes = torch.zeros(objects, len(COLOURS))
    votes.index_put_((number, nearest[place.unbind(1)]), torch.ones(()), accumulate=True)
    colour = votes.argmax(1)
    window, centroid = _windows(which, part, picture, colour)
    shape, size = _fitted(window, centroid)
    return _scenes(len(pixels), picture, votes.sum(1), colour, shape, size, centroid)


def _parts(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each pixel an object of each colour would cover, `[N, 8, 32, 32]`; the nearest colour, `[N, 32, 32]`.

    The nearest colour is the one whose line from the background passes closest to the pixel.
    """
    background = torch.tensor(BACKGROUND, dtype=torch.float32)
    direction = background - torch.tensor([*COLOURS.values()], dtype=torch.float32)
    square = direction.square().sum(1)[:, None, None]
    along = torch.einsum("kc,ncyx->nkyx", direction, background[:, None, None] - pixels.float()) / square
    part = along.clamp(0, 1)
    # |away - part direction|^2, without |away|^2, which is the same for all colours
    return part, ((part.square() - 2 * part * along) * square).argmin(1)


def _objects(inside: Tensor, nearest: Tensor) -> Tensor:
    """The number of the object of each pixel, from 1 on, or 0, int64 `[N, 32, 32]`."""
    cross = torch.zeros(3, 3, 3, dtype=torch.int64)
    cross[1, 1, :] = cross[1, :, 1] = 1  # neighbours in the same picture
    connected = torch.from_numpy(ndimage.label(inside.numpy(), cross.numpy())[0]).long()
    kinds = len(COLOURS)
    by_colour = connected * kinds + nearest
    votes = torch.bincount(by_colour.flatten(), minlength=(int(connected.max()) + 1) * kinds).view(-1, kinds)
    second = votes.sort(1).values[:, -2]
    several = (second >= LEAST_PIXELS) & (second >= _SECOND_COLOUR * votes.sum(1))
    key = torch.where(several[connected], by_colour, connected * kinds)
    pixels = torch.bincount(key[inside], minlength=int(key.max()) + 1)
    large = pixels >= LEAST_PIXELS
    number = large.cumsum(0) * large
    return number[key] * inside


def _windows(which: Tensor, part: Tensor, picture: Tensor, colour: Tensor) -> tuple[Tensor, Tensor]:
    """What objects cover around their centroids, `[K, 19, 19]`, and these (x, y), `[K, 2]`.

    An object reaches one pixel further than the pixels that it covers by half, but not into another object.
    """
    own = which[picture] == torch.arange(1, len(picture) + 1)[:, None, None]
    near = functional.max_pool2d(own[:, None].float(), 3, 1, 1)[:, 0] > 0
    covered = part[picture, colour] * (own | (near & (which[picture] == 0)))
    pixels = torch.arange(SIDE) + 0.5
    weight = covered.sum((1, 2)).clamp(min=1e-6)
    centroid = torch.stack([(covered.sum(1) * pixels).sum(1), (covered.sum(2) * pixels).sum(1)], 1) / weight[:, None]
    rows, columns = ((_corner(centroid[:, axis])[:, None] + torch.arange(2 * _REACH + 1)) for axis in (1, 0))
    padded = functional.pad(covered, (_REACH,) * 4)
    return padded[torch.arange(len(picture))[:, None, None], rows[:, :, None], columns[:, None, :]], centroid


def _corner(centre: Tensor) -> Tensor:
    """The first padded pixel of the window around a centroid: that of the pixel which contains it, less the reach."""
    return centre.floor().long().clamp(0, SIDE - 1)


@cache
def _templates() -> tuple[Tensor, Tensor, Tensor]:
    """What shapes cover, `[4 * 4, T, 19 * 19]` for each place of the centroid within its pixel (x first).

    Also their shapes and radii, each `[T]`.
    """
    radii = torch.arange(RADII[0][0] - 0.8, RADII[1][1] + 0.8, 0.2)
    offsets = (torch.arange(_STEPS) + 0.5) / _STEPS
    pixels = torch.arange(2 * _REACH + 1) - _REACH + 0.5
    x = (pixels - offsets[:, None])[:, None, None, None, :]
    y = (pixels - offsets[:, None])[None, :, None, :, None]
    drawn = torch.stack([coverage(shape, x, y, radii[:, None, None]) for shape in SHAPES], 2)
    shape = torch.arange(len(SHAPES)).repeat_interleave(len(radii))
    return drawn.reshape(_STEPS**2, len(shape), -1), shape, radii.repeat(len(SHAPES))


def _fitted(window: Tensor, centroid: Tensor) -> tuple[Tensor, Tensor]:
    """The shape and the size of objects, each int64 `[K]`; `UNKNOWN` where no template is like them."""
    templates, shapes, radii = _templates()
    place = ((centroid - centroid.floor()) * _STEPS).long().clamp(0, _STEPS - 1)
    offset, seen = place[:, 0] * _STEPS + place[:, 1], window.flatten(1)
    best, overlap = torch.zeros(len(window), dtype=torch.int64), torch.zeros(len(window))
    for index, drawn in enumerate(templates):
        rows = (offset == index).nonzero()[:, 0]
        if len(rows):
            total = seen[rows].sum(1)[:, None] + drawn.sum(1)
            apart = torch.cdist(seen[rows], drawn, p=1)
            # the sum of the smaller values is (total - apart) / 2, that of the larger ones (total + apart) / 2
            overlap[rows], best[rows] = ((total - apart) / (total + apart)).max(1)
    known = overlap >= LEAST_OVERLAP
    big = (radii[best] > _LARGEST_SMALL).long()
    return torch.where(known, shapes[best], UNKNOWN), torch.where(known, big, UNKNOWN)


def _scenes(
    n: int, picture: Tensor, area: Tensor, colour: Tensor, shape: Tensor, size: Tensor, centroid: Tensor
) -> Scenes:
    """The scenes of `n` pictures from the attributes of all their objects, each `[K]`."""
    order = area.argsort(descending=True, stable=True)
    order = order[picture[order].argsort(stable=True)]
    count = torch.bincount(picture, minlength=n)
    rank = torch.arange(len(picture)) - (count.cumsum(0) - count)[picture[order]]
    order, rank = order[rank < 2], rank[rank < 2]
    at = picture[order], rank

    def placed(values: Tensor, empty: float) -> Tensor:
        table = torch.full((n, 2, *values.shape[1:]), empty, dtype=values.dtype)
        table[at] = values[order]
        return table

    first, second = placed(centroid, torch.nan).unbind(1)
    across, down = (first - second).unbind(1)
    left, right, above, below = map(RELATIONS.index, ("left", "right", "above", "below"))
    level = torch.where(across < 0, left, right)
    upright = torch.where(down < 0, above, below)
    relation = torch.where(across.abs() >= down.abs(), level, upright).where(count >= 2, UNKNOWN)
    return Scenes(count, placed(colour, UNKNOWN), placed(shape, UNKNOWN), placed(size, UNKNOWN), relation)
