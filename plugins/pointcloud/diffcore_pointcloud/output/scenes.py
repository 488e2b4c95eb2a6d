"""Clouds as scenes that can be turned, for the report."""

import math

import numpy
from PIL import Image

from diffcore.evaluation.viewer import Scene
from diffcore_pointcloud.output.painting import view
from diffcore_pointcloud.output.points import Points, colours, extent

MOST = 4096
"""Points of a scene; of larger clouds, every so many are shown."""
INKS = 64
"""Colours of a scene at most: a page names each, so fewer make it smaller."""


def scene(points: Points, caption: str = "") -> Scene:
    """The cloud as in pictures: from the same side and in the same colours.

    Points without finite coordinates and, of clouds of more than `MOST` points, all but an even stride are left out;
    the caption says so.
    """
    shown = points.finite
    notes = [f"{len(points) - len(shown)} points are nowhere"] if len(shown) < len(points) else []
    if len(shown) > MOST:
        kept = shown[numpy.linspace(0, len(shown) - 1, MOST).round().astype(int)]
        notes.append(f"{MOST:,} of {len(shown):,} points")
        shown = kept
    where = extent(shown)
    reach = max(where.radius, where.height) or 1.0
    return Scene(
        points=(shown.positions - where.centre) @ view().T,
        colours=_names(shown),
        radii=0.9 * reach / math.sqrt(max(len(shown), 1)),
        caption=", ".join(filter(None, [caption, *notes])),
    )


def _names(points: Points) -> list[str]:
    """The colour of each point, one of `INKS` that come near all of them."""
    found = colours(points)
    if len(found):
        found = numpy.asarray(Image.fromarray(found[None]).quantize(INKS).convert("RGB"))[0]
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in found.tolist()]
