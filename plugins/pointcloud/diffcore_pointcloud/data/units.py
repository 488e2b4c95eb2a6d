"""Notices shapes in different units of length by their sizes."""

from collections.abc import Sequence

import numpy
from numpy.typing import ArrayLike, NDArray

UNITS = {
    1000.0: "millimetres to metres",
    304.8: "millimetres to feet",
    100.0: "centimetres to metres",
    39.37: "inches to metres",
    30.48: "centimetres to feet",
    25.4: "millimetres to inches",
    12.0: "inches to feet",
    10.0: "millimetres to centimetres",
    3.281: "feet to metres",
}
"""How many times larger the same lengths are in the first unit than in the second."""

_NATURAL = 20.0
"""Ratios below this also occur among shapes of one unit, so more examples are needed."""


def ratio_of_units(ratio: float) -> str:
    """The two units whose ratio is nearest to `ratio`, in words; empty if none is near.

    The sizes of shapes of one unit vary too, so small ratios may differ by 30 %, and ratios above 20 by 60 %.
    """
    nearest = min(UNITS, key=lambda known: abs(numpy.log(known / ratio)))
    near = max(nearest / ratio, ratio / nearest) <= (1.3 if ratio < _NATURAL else 1.6)
    return UNITS[nearest] if near else ""


def mixed_units(sizes: ArrayLike, labels: Sequence[int], what: str) -> str:
    """A sentence if `sizes` `[n]`, the longest sides of shapes of classes `labels`, look like two units; else empty.

    They do if the sizes form two groups, farther apart than the sizes in each group, whose medians have the ratio of
    two units. Ratios below 20 must occur within a class, with three shapes in each group: classes differ in size.
    """
    values, classes = numpy.asarray(sizes, dtype=float), numpy.asarray(labels)
    for chosen in (*(classes == label for label in numpy.unique(classes)), numpy.ones(len(values), bool)):
        within = bool((classes[chosen] == classes[chosen][:1]).all())
        groups = _groups(numpy.sort(values[chosen]))
        if groups is None:
            continue
        small, large = groups
        ratio = float(numpy.median(large) / numpy.median(small))
        enough = min(len(small), len(large)) >= 3 and within
        if (units := ratio_of_units(ratio)) and (ratio >= _NATURAL or enough):
            return (
                f"the longest side is about {numpy.median(large):.3g} in {len(large)} of the {what} and "
                f"{numpy.median(small):.3g} in {len(small)} others: {ratio:.3g} times as large, like {units}; if their "
                "units differ, convert them, or set `data.normalise` to each"
            )
    return ""


def _groups(sizes: NDArray[numpy.float64]) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]] | None:
    """Sorted sizes as two groups on both sides of the largest gap, if it is larger than both groups; else None."""
    if len(sizes) < 3 or not sizes[0] > 0:
        return None
    logs = numpy.log(sizes)
    at = int(numpy.diff(logs).argmax()) + 1
    gap = logs[at] - logs[at - 1]
    if gap < numpy.log(2) or gap <= max(logs[at - 1] - logs[0], logs[-1] - logs[at]):
        return None
    return sizes[:at], sizes[at:]
