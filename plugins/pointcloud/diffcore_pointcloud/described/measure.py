"""Measures furniture: its height, the outline of its top, its legs and its arms.

Clouds are `positions` `[P, 3]` with y up. Lengths are those of the cloud after it is fitted to the cube [-1, 1].
"""

from dataclasses import dataclass

import numpy
from numpy import ndarray
from scipy.cluster.hierarchy import fcluster, linkage

_BINS = 24
"""Layers of equal height, of which the one with the most points contains the top or the seat."""
_LOWEST_TOP = 0.3
"""A top or a seat is higher than this part of the height of the shape."""
_MARGIN = 1.15
"""A point is outside of an ellipse if x^2 / a^2 + y^2 / b^2 exceeds this, as few points do not reach its edges."""
_LAYERS = 8
"""Layers of the space below the top in which legs are sought."""
_FULL = 2.5
"""A layer with so many times the points of the median layer contains a shelf or a beam, and does not count."""
_GAP = 0.16
"""Points below the top that are nearer to each other than this, seen from above, are of the same leg."""
_LEAST_PART = 0.04
"""A leg has at least this part of the points below the top."""


@dataclass(frozen=True)
class Measures:
    """What is measured of a cloud.

    * `height`: the height, divided by the longest horizontal side.
    * `corners`: the part of the points of the top that lie outside of the ellipse in its rectangle. A rectangle has
      1 - pi / 4 = 0.21, an ellipse 0.
    * `legs`: the number of legs.
    * `thickness`: the root mean square distance of the points of a leg to its axis, averaged over the legs.
    * `above`: the part of all points that lie above the front half of the seat.
    """

    height: float
    corners: float
    legs: int
    thickness: float
    above: float


def measure(positions: ndarray) -> Measures:
    """The measures of a cloud `[P, 3]` of finite positions."""
    low, high = positions.min(0), positions.max(0)
    sides = high - low
    points = (positions - (low + high) / 2) / max(sides.max() / 2, 1e-12)
    level, bottom = _top(points[:, 1]), points[:, 1].min()
    thick = 1.5 * (points[:, 1].max() - bottom) / _BINS
    legs, thickness = _legs(points, bottom, level - thick)
    above = (points[:, 1] > level + 2 * thick) & (points[:, 2] > 0)
    top = points[abs(points[:, 1] - level) < thick]
    return Measures(
        height=float(sides[1] / max(sides[0], sides[2], 1e-12)),
        corners=_outside_ellipse(top[:, [0, 2]]),
        legs=legs,
        thickness=thickness,
        above=float(above.mean()),
    )


def _top(y: ndarray) -> float:
    """The level of the top or the seat: the middle of the layer with the most points."""
    counts, edges = numpy.histogram(y, _BINS)
    first = int(_LOWEST_TOP * _BINS)
    best = first + int(counts[first:].argmax())
    return float((edges[best] + edges[best + 1]) / 2)


def _outside_ellipse(points: ndarray) -> float:
    """The part of points `[K, 2]` outside of the ellipse in their rectangle."""
    if len(points) < 8:
        return 0.0
    low, high = points.min(0), points.max(0)
    scaled = (points - (low + high) / 2) / numpy.maximum((high - low) / 2, 1e-12)
    return float(((scaled**2).sum(1) > _MARGIN).mean())


def _legs(points: ndarray, bottom: float, top: float) -> tuple[int, float]:
    """The number of legs between two levels and their mean thickness; 0 and nan if there are none."""
    low, high = bottom + 0.18 * (top - bottom), bottom + 0.92 * (top - bottom)
    between = points[(points[:, 1] > low) & (points[:, 1] < high)]
    if len(between) < 4:
        return 0, numpy.nan
    layer = numpy.clip(((between[:, 1] - low) / (high - low) * _LAYERS).astype(int), 0, _LAYERS - 1)
    counts = numpy.bincount(layer, minlength=_LAYERS)
    usual = numpy.median(counts)
    kept = between[(counts <= max(_FULL * usual, usual + 6))[layer]]
    if len(kept) < 4:
        return 0, numpy.nan
    number = fcluster(linkage(kept[:, [0, 2]], "single"), _GAP, "distance")
    groups = [kept[number == each] for each in numpy.unique(number)]
    groups = [group for group in groups if len(group) >= max(3, _LEAST_PART * len(kept))]
    return len(groups), float(numpy.mean([_spread(group) for group in groups])) if groups else numpy.nan


def _spread(group: ndarray) -> float:
    """The root mean square distance of points to the straight line through them, as a function of the height."""
    if len(group) < 4:
        return numpy.nan
    line = numpy.stack([numpy.ones(len(group)), group[:, 1]], 1)
    rest = group[:, [0, 2]] - line @ numpy.linalg.lstsq(line, group[:, [0, 2]], rcond=None)[0]
    return float(numpy.sqrt((rest**2).sum() / (len(group) - 2)))
