"""Pictures of clouds: points as shaded balls on a white ground."""

import math

import numpy
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from diffcore_pointcloud.geometry.kernels import Camera, backend
from diffcore_pointcloud.output.points import Array, Points, colours, extent

AZIMUTH, ELEVATION = math.radians(35), math.radians(22)
"""The angles of the view: the rotation of the cloud about y, and the elevation of the camera."""
LIGHT = numpy.array([-0.42, 0.72, 0.55]) / math.sqrt(0.42**2 + 0.72**2 + 0.55**2)
"""The direction towards the light, in the coordinates of the view: left, above and in front."""
SHADE = 1 - numpy.array([0.36, 0.39, 0.46])
"""How much a full shadow reduces the red, green and blue of the white ground."""
FILLED = 0.92
"""The largest fraction of a frame that its cloud fills."""
FINE = 2
"""Pictures are rendered larger by this factor and averaged, for smooth edges."""
POINTS, SOLID = 0.97, 2.2
"""The radius of the balls in units of the frame divided by the square root of their number: for clouds, and for points
so evenly on a surface that no gaps shall be seen."""
COARSE = 8
"""Quantities that are blurred are computed at a resolution that is lower by this factor."""


def view(azimuth: float = AZIMUTH, elevation: float = ELEVATION) -> Array:
    """The rotation `[3, 3]` whose rows are the directions right, up and towards the viewer."""
    a, e = azimuth, elevation
    about_y = numpy.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    about_x = numpy.array([[1, 0, 0], [0, math.cos(e), -math.sin(e)], [0, math.sin(e), math.cos(e)]])
    return about_x @ about_y


def frame_half(cloud: Points, elevation: float = ELEVATION) -> float:
    """Half the side of a square frame that contains the cloud at any rotation about y."""
    _, radius, height = extent(cloud)
    return max(radius, height * math.cos(elevation) + radius * math.sin(elevation)) or 1.0


def painted(
    points: Points, size: int, azimuth: float = AZIMUTH, elevation: float = ELEVATION, balls: float = POINTS
) -> Array:
    """An orthographic picture of a cloud, uint8 `[size, size, 3]`, on white. `size` must be a multiple of 4.

    Each point is a small ball, lit from the upper left; if there are normals, half of the light is computed from them.
    The radius of the balls is `balls`, in units of the frame, divided by the square root of their number.
    Points behind their surroundings are darkened (unsharp masking of the depth, Luft et al. 2006), the farther half of
    the cloud fades slightly, and the ground has a soft shadow. Points that are not finite are left out.
    """
    side = FINE * size
    if side % COARSE:
        raise ValueError(f"the size of pictures must be a multiple of {COARSE // FINE}, not {size}")
    points = points.finite
    canvas = numpy.ones((side, side, 3))
    if not len(points):
        return _smaller(canvas)
    # Coordinates in units of the frame, from -1 to 1, so that clouds of any unit can be drawn.
    rotation, where, half = view(azimuth, elevation), extent(points), frame_half(points, elevation) / FILLED
    positions = (points.positions - where.centre) / half
    canvas *= 1 - _shadow(positions, where.height / half, rotation, side)[..., None] * SHADE
    radius = min(max(balls / math.sqrt(len(points)), 1.8 * FINE / side), 0.12)
    drawn, which, across, up = _balls(positions, rotation, radius, side)
    if not len(which):
        return _smaller(canvas)
    towards = numpy.sqrt(numpy.clip(1 - across**2 - up**2, 0, 1))
    light = across * LIGHT[0] + up * LIGHT[1] + towards * LIGHT[2]
    if points.normals is not None:
        normals = numpy.nan_to_num(points.normals) @ rotation.T
        normals *= numpy.where(normals[:, 2:] < 0, -1, 1)  # towards the viewer
        light = (light + (normals @ LIGHT)[which]) / 2
    depth = (positions @ rotation[2])[which] + radius * towards
    brightness = (0.62 + 0.42 * numpy.clip(light, -0.4, 1)) * _occlusion(depth, drawn)
    colour = (colours(points) / 255.0)[which] * brightness[:, None] + 0.10 * numpy.clip(light, 0, 1)[:, None] ** 12
    fading = 0.22 * numpy.clip(-depth / FILLED, 0, 1)[:, None]
    canvas[drawn] = colour * (1 - fading) + fading
    return _smaller(canvas)


def _balls(positions: Array, rotation: Array, radius: float, side: int) -> tuple[Array, Array, Array, Array]:
    """The pixels that show a ball, bool `[side, side]`, and for each of them the index of the ball.

    Also returns how far each pixel is to the right of the centre of its ball, and above it, in units of `radius`.
    """
    camera = Camera(torch.from_numpy(rotation), torch.zeros(3, dtype=torch.float64), extent=1.0)
    index = backend().render(torch.from_numpy(positions), camera, side, side, radius).index.numpy()
    drawn = index >= 0
    which = index[drawn]
    down, right = (2 * (at + 0.5) / side - 1 for at in numpy.nonzero(drawn))
    across = (right - (positions @ rotation[0])[which]) / radius
    up = (-down - (positions @ rotation[1])[which]) / radius
    return drawn, which, across, up


def _occlusion(depth: Array, drawn: Array) -> Array:
    """The brightness of each drawn pixel: lower the farther it is behind the mean depth of its surroundings."""
    depths = numpy.zeros(drawn.shape)
    depths[drawn] = depth
    sigma = 0.06  # of the frame's side of 2
    pixels = sigma / 2 * len(drawn) / COARSE
    mean = _blurred(_coarser(depths), pixels) / numpy.maximum(_blurred(_coarser(drawn.astype(float)), pixels), 1e-6)
    behind = numpy.clip((_larger(mean)[drawn] - depth) / (6 * sigma), -0.5, 1)
    return numpy.where(behind > 0, 1 - 0.6 * behind, 1 - 0.25 * behind)


def _shadow(positions: Array, height: float, rotation: Array, side: int) -> Array:
    """The darkness of the ground from 0 to 1: the points projected onto it and blurred; higher ones count less."""
    projected = numpy.stack([positions[:, 0], numpy.full(len(positions), -height), positions[:, 2]], 1) @ rotation.T
    weight = 1 / (1 + numpy.clip(positions[:, 1] + height, 0, None) / (height or 1))
    bins = side // COARSE
    counts, _, _ = numpy.histogram2d(-projected[:, 1], projected[:, 0], bins, ((-1, 1), (-1, 1)), weights=weight)
    density = _blurred(counts, 0.028 * bins) * (FILLED / 2 * bins) ** 2 / len(positions)
    return _larger(0.55 * (1 - numpy.exp(-0.9 * density)))


def _blurred(values: Array, sigma: float) -> Array:
    return gaussian_filter(values, sigma, truncate=3)


def _coarser(values: Array, by: int = COARSE) -> Array:
    """Means over squares of `by` x `by` pixels."""
    side = len(values) // by
    return values.reshape(side, by, side, by, *values.shape[2:]).mean((1, 3))


def _larger(values: Array) -> Array:
    """Bilinear interpolation to a resolution that is higher by `COARSE`."""
    side = COARSE * len(values)
    picture = Image.fromarray(values.astype(numpy.float32))
    return numpy.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))


def _smaller(canvas: Array) -> Array:
    return (255 * numpy.clip(_coarser(canvas, FINE), 0, 1)).round().astype(numpy.uint8)
