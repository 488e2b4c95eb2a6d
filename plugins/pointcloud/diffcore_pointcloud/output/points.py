"""A point cloud outside torch: what files, pictures and scenes take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy
from tensordict import TensorDict

Array = numpy.ndarray


@dataclass(frozen=True, eq=False)
class Points:
    """The points of one shape, in the data's unit, y up."""

    positions: Array
    """float32 `[n, 3]`."""
    normals: Array | None = None
    """float32 `[n, 3]`."""
    colours: Array | None = None
    """uint8 `[n, 3]`."""

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, which: Array | slice) -> "Points":
        """Some of the points, with all that is known of them."""
        first, *others = self.arrays
        return Points(first[which], *(None if field is None else field[which] for field in others))

    @property
    def arrays(self) -> tuple[Array, Array | None, Array | None]:
        return self.positions, self.normals, self.colours

    @property
    def finite(self) -> "Points":
        """The points whose coordinates are numbers."""
        kept = numpy.isfinite(self.positions).all(1)
        return self if kept.all() else self[kept]

    def moved(self, by: Array) -> "Points":
        """The cloud elsewhere."""
        return Points((self.positions + by).astype(numpy.float32), self.normals, self.colours)


def unbatched(samples: TensorDict) -> list[Points]:
    """Samples of a codec, one by one."""
    kinds = {"positions": numpy.float32, "normals": numpy.float32, "colours": numpy.uint8}
    fields = {
        name: samples[name].detach().cpu().numpy().astype(kind)
        for name, kind in kinds.items()
        if name in samples.keys()
    }
    return [Points(**{name: values[k] for name, values in fields.items()}) for k in range(samples.shape[0])]


def upright(points: Points, up: str) -> Points:
    """A cloud turned so that its axis `up`, "y" or "z", becomes y."""
    if up == "y":
        return points
    turn = numpy.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], numpy.float32)
    normals = None if points.normals is None else points.normals @ turn.T
    return Points(points.positions @ turn.T, normals, points.colours)


def joined(parts: Sequence[Points]) -> Points:
    """All points of several clouds, with what is known of all."""
    positions, *others = zip(*(part.arrays for part in parts), strict=True)
    known = [None if any(v is None for v in values) else numpy.concatenate(values) for values in others]
    return Points(numpy.concatenate(positions), *known)


class Extent(NamedTuple):
    """Where a cloud is, for frames and distances."""

    centre: Array
    """Of the box, `[3]`."""
    radius: float
    """The largest distance from the vertical axis through the centre."""
    height: float
    """Half the height of the box."""


def extent(points: Points) -> Extent:
    """Where the points of a cloud are, but for strays, so that a few of these do not make all else tiny.

    Strays are farther from the median than 1.5 times what 99 in 100 points are. A cloud without points is a dot.
    """
    positions = points.finite.positions.astype(numpy.float64)
    if not len(positions):
        return Extent(numpy.zeros(3), 0.0, 0.0)
    away = numpy.linalg.norm(positions - numpy.median(positions, 0), axis=1)
    positions = positions[away <= 1.5 * numpy.quantile(away, 0.99)]
    centre = (positions.max(0) + positions.min(0)) / 2
    x, y, z = (positions - centre).T
    return Extent(centre, float(numpy.hypot(x, z).max()), float(numpy.abs(y).max()))


RAMP = ("#2f4a9e", "#3d93d0", "#63cbb0", "#f2dd8a", "#ef8354")
"""Colours by height, from below, where a cloud has none of its own."""


def colours(points: Points) -> Array:
    """The cloud's colours, or those of `RAMP` by height, uint8 `[n, 3]`."""
    if points.colours is not None:
        return points.colours
    where = extent(points)
    share = (points.positions[:, 1] - where.centre[1]) / (2 * where.height or 1) + 0.5
    places = numpy.linspace(0, 1, len(RAMP))
    ramp = numpy.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in RAMP])
    share = numpy.nan_to_num(share, nan=0, posinf=1, neginf=0)
    return numpy.stack([numpy.interp(share, places, band) for band in ramp.T], 1).round().astype(numpy.uint8)
