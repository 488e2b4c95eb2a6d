"""A point cloud as NumPy arrays, for files, pictures and scenes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy
from tensordict import TensorDict

Array = numpy.ndarray


@dataclass(frozen=True, eq=False)
class Points:
    """The points of one shape, in the data's unit."""

    positions: Array
    """float32 `[n, 3]`."""
    normals: Array | None = None
    """float32 `[n, 3]`."""
    colours: Array | None = None
    """uint8 `[n, 3]`."""
    parts: Array | None = None
    """The labels of the parts that the points are of, int32 `[n]`."""

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, which: Array | slice) -> "Points":
        """Some of the points, with all that they have."""
        first, *others = self.arrays
        return Points(first[which], *(None if field is None else field[which] for field in others))

    @property
    def arrays(self) -> tuple[Array, Array | None, Array | None, Array | None]:
        """Positions, normals, colours and labels of parts."""
        return self.positions, self.normals, self.colours, self.parts

    @property
    def finite(self) -> "Points":
        """The points whose coordinates are finite."""
        kept = numpy.isfinite(self.positions).all(1)
        return self if kept.all() else self[kept]

    def moved(self, by: Array) -> "Points":
        """The cloud translated by `by`."""
        return replace(self, positions=(self.positions + by).astype(numpy.float32))


def unbatched(samples: TensorDict) -> list[Points]:
    """The samples of a codec as a list of clouds."""
    kinds = {"positions": numpy.float32, "normals": numpy.float32, "colours": numpy.uint8, "parts": numpy.int32}
    fields = {
        name: samples[name].detach().cpu().numpy().astype(kind)
        for name, kind in kinds.items()
        if name in samples.keys()
    }
    return [Points(**{name: values[k] for name, values in fields.items()}) for k in range(samples.shape[0])]


def upright(points: Points, up: str) -> Points:
    """The cloud rotated so that its axis `up`, "y" or "z", becomes y."""
    if up == "y":
        return points
    rotation = numpy.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], numpy.float32)
    normals = None if points.normals is None else points.normals @ rotation.T
    return replace(points, positions=points.positions @ rotation.T, normals=normals)


def without_outliers(points: Points) -> Points:
    """The finite points whose distance from the median is at most 1.5 times the 99th percentile of this distance."""
    points = points.finite
    if not len(points):
        return points
    positions = points.positions.astype(numpy.float64)
    distances = numpy.linalg.norm(positions - numpy.median(positions, 0), axis=1)
    return points[distances <= 1.5 * numpy.quantile(distances, 0.99)]


class Extent(NamedTuple):
    """The position and size of a cloud, for frames and distances."""

    centre: Array
    """The centre of the bounding box, `[3]`."""
    radius: float
    """The largest distance of a point from the vertical axis through the centre."""
    height: float
    """Half the height of the bounding box."""


def extent(points: Points) -> Extent:
    """The extent of a cloud without outliers, which would make everything else tiny; zero if there are no points."""
    positions = without_outliers(points).positions.astype(numpy.float64)
    if not len(positions):
        return Extent(numpy.zeros(3), 0.0, 0.0)
    centre = (positions.max(0) + positions.min(0)) / 2
    x, y, z = (positions - centre).T
    return Extent(centre, float(numpy.hypot(x, z).max()), float(numpy.abs(y).max()))


RAMP = ("#2f4a9e", "#3d93d0", "#63cbb0", "#f2dd8a", "#ef8354")
"""Colours by height, from the bottom to the top, for clouds without colours."""
PALETTE = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#ff9da7"),
    *("#9c755f", "#86bcb6", "#2f4a9e", "#d37295", "#8cd17d", "#b6992d", "#a0cbe8", "#79706e"),
)
"""Colours of the parts with the labels 0, 1, .., one after another and again from the first."""


def colours(points: Points) -> Array:
    """The colours to show a cloud in, uint8 `[n, 3]`: those of its parts, else its own, else those of `RAMP`."""
    if points.parts is not None:
        return _numbers(PALETTE)[points.parts % len(PALETTE)].astype(numpy.uint8)
    if points.colours is not None:
        return points.colours
    where = extent(points)
    height = (points.positions[:, 1] - where.centre[1]) / (2 * where.height or 1) + 0.5  # 0 to 1
    knots = numpy.linspace(0, 1, len(RAMP))
    ramp = _numbers(RAMP)
    height = numpy.nan_to_num(height, nan=0, posinf=1, neginf=0)
    return numpy.stack([numpy.interp(height, knots, channel) for channel in ramp.T], 1).round().astype(numpy.uint8)


def _numbers(names: Sequence[str]) -> Array:
    """Red, green and blue `[n, 3]` of colours that are written as `#rrggbb`."""
    return numpy.array([[int(name[at : at + 2], 16) for at in (1, 3, 5)] for name in names])
