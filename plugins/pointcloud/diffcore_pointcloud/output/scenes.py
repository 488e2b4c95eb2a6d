"""Interactive 3D scenes of clouds for the report."""

import math

import numpy
from PIL import Image

from diffcore.evaluation.viewer import Scene
from diffcore_pointcloud.output.painting import view
from diffcore_pointcloud.output.points import Points, colours, extent

MAX_POINTS = 4096
"""The largest number of points in a scene; larger clouds are subsampled evenly."""
MAX_COLOURS = 64
"""The largest number of colours in a scene, which limits the size of the page."""


def scene(points: Points, caption: str = "") -> Scene:
    """A scene that shows the cloud from the same side and in the same colours as pictures do.

    Points that are not finite are left out, and clouds of more than `MAX_POINTS` points are subsampled evenly; the
    caption says so.
    """
    shown = points.finite
    notes = [f"{len(points) - len(shown)} points are not finite"] if len(shown) < len(points) else []
    if len(shown) > MAX_POINTS:
        subset = shown[numpy.linspace(0, len(shown) - 1, MAX_POINTS).round().astype(int)]
        notes.append(f"{MAX_POINTS:,} of {len(shown):,} points")
        shown = subset
    where = extent(shown)
    size = max(where.radius, where.height) or 1.0
    return Scene(
        points=(shown.positions - where.centre) @ view().T,
        colours=_colour_names(shown),
        radii=0.9 * size / math.sqrt(max(len(shown), 1)),
        caption=", ".join(filter(None, [caption, *notes])),
    )


def _colour_names(points: Points) -> list[str]:
    """The colour of each point as `#rrggbb`, quantised to at most `MAX_COLOURS` colours."""
    rgb = colours(points)
    if len(rgb):
        rgb = numpy.asarray(Image.fromarray(rgb[None]).quantize(MAX_COLOURS).convert("RGB"))[0]
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in rgb.tolist()]
