"""Clouds as pictures: a numpy painter of shaded discs."""

import math

import numpy
from PIL import Image
from scipy.ndimage import gaussian_filter

from diffcore_pointcloud.points import Array, Points, colours, extent

AZIMUTH, ELEVATION = math.radians(35), math.radians(22)
"""The 3/4 view: how far a cloud is turned about y, and how far it is seen from above."""
LIGHT = numpy.array([-0.42, 0.72, 0.55]) / math.sqrt(0.42**2 + 0.72**2 + 0.55**2)
"""Where the light is, for the reader: left, above and in front."""
FINE = 2
"""Pictures are painted larger by this factor and averaged, for smooth edges."""
COARSE = 8
"""What is blurred is painted smaller than that by this factor."""


def view(azimuth: float = AZIMUTH, elevation: float = ELEVATION) -> Array:
    """The rotation `[3, 3]` to right, up and towards the reader: p @ view().T."""
    a, e = azimuth, elevation
    about_y = numpy.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    about_x = numpy.array([[1, 0, 0], [0, math.cos(e), -math.sin(e)], [0, math.sin(e), math.cos(e)]])
    return about_x @ about_y


def reach(cloud: Points, elevation: float = ELEVATION) -> float:
    """Half the side of a frame that holds a cloud however it is turned about y."""
    _, radius, height = extent(cloud)
    return max(radius, height * math.cos(elevation) + radius * math.sin(elevation)) or 1.0


def painted(cloud: Points, size: int, azimuth: float = AZIMUTH, elevation: float = ELEVATION) -> Array:
    """A picture of a cloud, orthographic, uint8 `[size, size, 3]` on white.

    Each point is a small ball, the nearer hiding the farther, lit from the upper left; where there are normals they
    count half in the light. What lies behind its surroundings is darkened (unsharp masking of the depth, Luft et al.
    2006), the farther half fades a little, and a soft shadow lies on the ground. Points without finite coordinates
    are left out.
    """
    cloud = cloud.finite
    side = FINE * size
    if side % COARSE:
        raise ValueError(f"pictures have a multiple of {COARSE // FINE} pixels a side, not {size}")
    canvas = numpy.ones((side, side, 3))
    if not len(cloud):
        return _smaller(canvas)
    turn, where = view(azimuth, elevation), extent(cloud)
    scale = 0.46 * side / reach(cloud, elevation)
    local = (cloud.positions - where.centre).astype(numpy.float64)
    places = local @ turn.T * scale
    canvas *= 1 - _shadow(local, where.height, turn, scale, side)[..., None] * (1 - numpy.array([0.36, 0.39, 0.46]))
    radius = max(1.05 * scale * reach(cloud, elevation) / math.sqrt(len(cloud)), 0.9 * FINE)
    radius = min(radius, 0.06 * side)
    seen, which, across, up = _balls(places, radius, side)
    if not len(which):
        return _smaller(canvas)
    towards = numpy.sqrt(1 - across**2 - up**2)
    lit = across * LIGHT[0] + up * LIGHT[1] + towards * LIGHT[2]
    if cloud.normals is not None:
        normals = numpy.nan_to_num(cloud.normals) @ turn.T
        normals *= numpy.where(normals[:, 2:] < 0, -1, 1)  # towards the reader
        lit = (lit + (normals @ LIGHT)[which]) / 2
    depth = places[which, 2] + radius * towards
    tone = (0.62 + 0.42 * numpy.clip(lit, -0.4, 1)) * _hollows(depth, seen)
    ink = (colours(cloud) / 255.0)[which] * tone[:, None] + 0.10 * numpy.clip(lit, 0, 1)[:, None] ** 12
    far = 0.22 * numpy.clip(-depth / (0.46 * side), 0, 1)[:, None]
    canvas[seen] = ink * (1 - far) + far
    return _smaller(canvas)


def _balls(places: Array, radius: float, side: int) -> tuple[Array, Array, Array, Array]:
    """The pixels that show a point `[side, side]`, and for each: which one, and where on its ball (right, up; in radii)."""
    steps = numpy.arange(-math.ceil(radius), math.ceil(radius) + 1)
    down, right = (grid.ravel() for grid in numpy.meshgrid(steps, steps, indexing="ij"))
    near = numpy.flatnonzero(down**2 + right**2 <= (radius + 1) ** 2)
    order = numpy.argsort(places[:, 2], kind="stable")  # the nearest last: of repeated pixels the last value stays
    at = numpy.stack([side / 2 - places[order, 1], side / 2 + places[order, 0]], 1)
    at = numpy.clip(at, -2 * side, 3 * side)  # strays
    corner = numpy.floor(at).astype(int)
    rows, columns = corner[:, :1] + down[near], corner[:, 1:] + right[near]
    up, across = (at[:, :1] - rows - 0.5) / radius, (columns + 0.5 - at[:, 1:]) / radius
    inside = numpy.flatnonzero(
        (up**2 + across**2 <= 1) & (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    )
    shown = numpy.full(side * side, -1)
    shown[(rows * side + columns).ravel()[inside]] = inside
    seen = shown >= 0
    shown = shown[seen]
    return seen.reshape(side, side), order[shown // len(near)], across.ravel()[shown], up.ravel()[shown]


def _hollows(depth: Array, seen: Array) -> Array:
    """How light each seen pixel is left: less the farther it lies behind the mean depth about it."""
    spread = 0.03 * len(seen)
    depths = numpy.zeros(seen.shape)
    depths[seen] = depth
    weight = _blurred(_coarser(seen.astype(float)), spread / COARSE)
    about = _blurred(_coarser(depths), spread / COARSE) / numpy.maximum(weight, 1e-6)
    behind = numpy.clip((_larger(about, COARSE)[seen] - depth) / (6 * spread), -0.5, 1)
    return numpy.where(behind > 0, 1 - 0.6 * behind, 1 - 0.25 * behind)


def _shadow(local: Array, height: float, turn: Array, scale: float, side: int) -> Array:
    """How dark the ground is, 0 to 1: the points let down to it, blurred; high ones count less."""
    fallen = numpy.stack([local[:, 0], numpy.full(len(local), -height), local[:, 2]], 1) @ turn.T * scale
    weight = 1 / (1 + numpy.clip(local[:, 1] + height, 0, None) / (height or 1))
    bins = side // COARSE
    ends = ((-side / 2, side / 2), (-side / 2, side / 2))
    spots, _, _ = numpy.histogram2d(-fallen[:, 1], fallen[:, 0], bins=bins, range=ends, weights=weight)
    soft = _blurred(spots, 0.028 * bins) * (0.46 * bins) ** 2 / len(local)
    return _larger(0.55 * (1 - numpy.exp(-0.9 * soft)), COARSE)


def _blurred(values: Array, spread: float) -> Array:
    return gaussian_filter(values, spread, truncate=3)


def _coarser(values: Array, by: int = COARSE) -> Array:
    """Means of squares of `by` pixels a side."""
    side = len(values) // by
    return values.reshape(side, by, side, by, *values.shape[2:]).mean((1, 3))


def _larger(values: Array, by: int) -> Array:
    """The reverse, smoothly."""
    side = by * len(values)
    picture = Image.fromarray(values.astype(numpy.float32))
    return numpy.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))


def _smaller(canvas: Array) -> Array:
    return (255 * numpy.clip(_coarser(canvas, FINE), 0, 1)).round().astype(numpy.uint8)
