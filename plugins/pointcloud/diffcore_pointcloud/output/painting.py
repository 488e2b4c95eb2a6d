"""Clouds as pictures: points as shaded balls on a white ground."""

import math

import numpy
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from diffcore_pointcloud.geometry.kernels import Camera, backend
from diffcore_pointcloud.output.points import Array, Points, colours, extent

AZIMUTH, ELEVATION = math.radians(35), math.radians(22)
"""The 3/4 view: how far a cloud is turned about y, and how far it is seen from above."""
LIGHT = numpy.array([-0.42, 0.72, 0.55]) / math.sqrt(0.42**2 + 0.72**2 + 0.55**2)
"""Where the light is, for the reader: left, above and in front."""
SHADE = 1 - numpy.array([0.36, 0.39, 0.46])
"""What a full shadow takes of the white ground."""
FILLED = 0.92
"""How much of a frame its cloud fills at most."""
FINE = 2
"""Pictures are painted larger by this factor and averaged, for smooth edges."""
COARSE = 8
"""What is blurred is painted smaller than that by this factor."""


def view(azimuth: float = AZIMUTH, elevation: float = ELEVATION) -> Array:
    """The rotation `[3, 3]` whose rows are right, up and towards the reader."""
    a, e = azimuth, elevation
    about_y = numpy.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    about_x = numpy.array([[1, 0, 0], [0, math.cos(e), -math.sin(e)], [0, math.sin(e), math.cos(e)]])
    return about_x @ about_y


def reach(cloud: Points, elevation: float = ELEVATION) -> float:
    """Half the side of a frame that holds a cloud however it is turned about y."""
    _, radius, height = extent(cloud)
    return max(radius, height * math.cos(elevation) + radius * math.sin(elevation)) or 1.0


def painted(points: Points, size: int, azimuth: float = AZIMUTH, elevation: float = ELEVATION) -> Array:
    """A picture of a cloud, orthographic, uint8 `[size, size, 3]` on white; `size` is a multiple of 4.

    Each point is a small ball, the nearer hiding the farther, lit from the upper left; where there are normals they
    count half in the light. What lies behind its surroundings is darkened (unsharp masking of the depth, Luft et al.
    2006), the farther half fades a little, and a soft shadow lies on the ground. Points without finite coordinates
    are left out.
    """
    side = FINE * size
    if side % COARSE:
        raise ValueError(f"pictures have a multiple of {COARSE // FINE} pixels a side, not {size}")
    points = points.finite
    canvas = numpy.ones((side, side, 3))
    if not len(points):
        return _smaller(canvas)
    # In units of the frame: -1 to 1 from side to side, so that no unit is too small or too large.
    turn, where, half = view(azimuth, elevation), extent(points), reach(points, elevation) / FILLED
    places = (points.positions - where.centre) / half
    canvas *= 1 - _shadow(places, where.height / half, turn, side)[..., None] * SHADE
    radius = min(max(0.97 / math.sqrt(len(points)), 1.8 * FINE / side), 0.12)
    seen, which, across, up = _balls(places, turn, radius, side)
    if not len(which):
        return _smaller(canvas)
    towards = numpy.sqrt(numpy.clip(1 - across**2 - up**2, 0, 1))
    lit = across * LIGHT[0] + up * LIGHT[1] + towards * LIGHT[2]
    if points.normals is not None:
        normals = numpy.nan_to_num(points.normals) @ turn.T
        normals *= numpy.where(normals[:, 2:] < 0, -1, 1)  # towards the reader
        lit = (lit + (normals @ LIGHT)[which]) / 2
    depth = (places @ turn[2])[which] + radius * towards
    tone = (0.62 + 0.42 * numpy.clip(lit, -0.4, 1)) * _hollows(depth, seen)
    ink = (colours(points) / 255.0)[which] * tone[:, None] + 0.10 * numpy.clip(lit, 0, 1)[:, None] ** 12
    far = 0.22 * numpy.clip(-depth / FILLED, 0, 1)[:, None]
    canvas[seen] = ink * (1 - far) + far
    return _smaller(canvas)


def _balls(places: Array, turn: Array, radius: float, side: int) -> tuple[Array, Array, Array, Array]:
    """The pixels that show a point `[side, side]`, and for each which, and where on its ball: right, up in radii."""
    camera = Camera(torch.from_numpy(turn), torch.zeros(3, dtype=torch.float64), extent=1.0)
    index = backend().render(torch.from_numpy(places), camera, side, side, radius).index.numpy()
    seen = index >= 0
    which = index[seen]
    down, right = (2 * (at + 0.5) / side - 1 for at in numpy.nonzero(seen))
    return seen, which, (right - (places @ turn[0])[which]) / radius, (-down - (places @ turn[1])[which]) / radius


def _hollows(depth: Array, seen: Array) -> Array:
    """How light each seen pixel is left: less the farther it lies behind the mean depth about it."""
    depths = numpy.zeros(seen.shape)
    depths[seen] = depth
    spread = 0.06  # of the frame's 2
    pixels = spread / 2 * len(seen) / COARSE
    about = _blurred(_coarser(depths), pixels) / numpy.maximum(_blurred(_coarser(seen.astype(float)), pixels), 1e-6)
    behind = numpy.clip((_larger(about)[seen] - depth) / (6 * spread), -0.5, 1)
    return numpy.where(behind > 0, 1 - 0.6 * behind, 1 - 0.25 * behind)


def _shadow(places: Array, height: float, turn: Array, side: int) -> Array:
    """How dark the ground is, 0 to 1: the points let down to it, blurred; high ones count less."""
    fallen = numpy.stack([places[:, 0], numpy.full(len(places), -height), places[:, 2]], 1) @ turn.T
    weight = 1 / (1 + numpy.clip(places[:, 1] + height, 0, None) / (height or 1))
    bins = side // COARSE
    spots, _, _ = numpy.histogram2d(-fallen[:, 1], fallen[:, 0], bins, ((-1, 1), (-1, 1)), weights=weight)
    soft = _blurred(spots, 0.028 * bins) * (FILLED / 2 * bins) ** 2 / len(places)
    return _larger(0.55 * (1 - numpy.exp(-0.9 * soft)))


def _blurred(values: Array, spread: float) -> Array:
    return gaussian_filter(values, spread, truncate=3)


def _coarser(values: Array, by: int = COARSE) -> Array:
    """Means of squares of `by` pixels a side."""
    side = len(values) // by
    return values.reshape(side, by, side, by, *values.shape[2:]).mean((1, 3))


def _larger(values: Array) -> Array:
    """The reverse, smoothly."""
    side = COARSE * len(values)
    picture = Image.fromarray(values.astype(numpy.float32))
    return numpy.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))


def _smaller(canvas: Array) -> Array:
    return (255 * numpy.clip(_coarser(canvas, FINE), 0, 1)).round().astype(numpy.uint8)
