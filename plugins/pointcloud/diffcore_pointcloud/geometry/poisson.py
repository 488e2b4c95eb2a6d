"""Surfaces through points with normals: screened Poisson reconstruction on a regular grid.

A closed surface is the boundary between the inside, where an indicator function chi is 1, and the outside, where it is
0. The gradient of chi is zero except at the surface, where it is the inward normal times a delta function. So the
points p_i with outward normals n_i, each of which stands for an area a_i of the surface, give an approximation
V = -sum_i a_i n_i delta(x - p_i) of that gradient, and chi minimises (Kazhdan & Hoppe 2013, Screened Poisson surface
reconstruction, eq. 3)

    integral |grad chi - V|^2 dx  +  (alpha / h) sum_i a_i (chi(p_i) - 1/2)^2,

where h is the distance of grid points. Without the second term this is a Poisson equation, which Fourier transforms
solve at once (Peng et al. 2021, Shape as points, section 3.1). With it, the equation is linear too, and is solved by
conjugate gradients that start at this solution and are preconditioned by it. The second term keeps thin parts, whose
two sides would otherwise cancel.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

Floats = NDArray[numpy.floating]
Integers = NDArray[numpy.integer]

SCREENING = 32.0
"""alpha: the weight of the values at the points."""
SMOOTHED = 5.0
"""How far the field of normals is smoothed, in units of the scatter of the points."""

ITERATIONS = 10
"""Steps of conjugate gradients."""
MARGIN = 0.08
"""The margin around the points on each side, as a fraction of the longest side of their box."""
NEIGHBOURS = 8
"""The number of nearest points from which the area of a point is estimated."""
LARGEST_AREA = 4.0
"""The largest area of a point, in units of the median; single points far from all others get no more than this."""
APART = 1e-3
"""The least distance of a vertex of the surface from a grid point, as a fraction of the range of chi.

Vertices at grid points would coincide, and readers that merge equal vertices would then find edges of four faces.
"""


def surface(points: Floats, normals: Floats, resolution: int) -> tuple[Floats, Integers]:
    """The vertices `[V, 3]` and triangles `[F, 3]` of the closed surface through points `[N, 3]` with outward normals.

    The unit is that of the points. Triangles are counterclockwise from outside. `resolution` is the number of grid
    points along the longest side, with the margins. There are no triangles if the points are all the same, or fewer
    than two.
    """
    none = numpy.zeros((0, 3)), numpy.zeros((0, 3), numpy.int64)
    if len(points) < 2 or not numpy.ptp(points, axis=0).max() > 0:
        return none
    grid = Grid.around(numpy.asarray(points, numpy.float64), resolution)
    areas, normals = areas_of(points), numpy.asarray(normals, numpy.float64)
    chi = indicator(grid, normals, areas, SMOOTHED * scatter_of(points, normals))
    level = float(numpy.average(grid.at(chi), weights=areas))
    chi = _closed(chi, level)
    if not chi.max() > level:
        return none
    vertices, faces, _, _ = marching_cubes(chi, level, gradient_direction="ascent")
    return vertices * grid.step + grid.origin, faces.astype(numpy.int64)


def areas_of(points: Floats) -> Floats:
    """The area `[N]` of the surface for which each point stands: pi d^2 / k, for the distance d of its k-th neighbour.

    With these weights, the surface does not depend on the density of the points.
    """
    k = min(NEIGHBOURS, len(points) - 1)
    distances = cKDTree(points).query(points, k + 1)[0][:, -1]
    areas = numpy.pi * distances**2 / k
    middle = numpy.median(areas[areas > 0]) if (areas > 0).any() else 1.0
    return numpy.clip(areas, 0.01 * middle, LARGEST_AREA * middle)  # type: ignore[no-any-return]


def scatter_of(points: Floats, normals: Floats) -> float:
    """How far points lie beside the surface, as a standard deviation in the unit of the points; 0 for smooth surfaces.

    For two points of a smooth surface, (p_j - p_i) . (n_i + n_j) / 2 is zero but for the third power of their distance.
    So its root mean square over the neighbours of a point, divided by sqrt(2), is the error of positions and normals,
    and hardly contains the curvature. Neighbours whose normals differ by more than 60 degrees are left out, such as the
    other side of a plate. The value is the median over the points.
    """
    k = min(NEIGHBOURS, len(points) - 1)
    near = cKDTree(points).query(points, k + 1)[1][:, 1:]
    unit = normals / numpy.maximum(numpy.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    both = unit[near] + unit[:, None]
    beside = ((points[near] - points[:, None]) * both).sum(2) / 2
    same = (both**2).sum(2) > 3  # 2 + 2 cos(60 degrees)
    counts = same.sum(1)
    squares = (beside**2 * same).sum(1)[counts > 0] / counts[counts > 0]
    return float(numpy.sqrt(numpy.median(squares) / 2)) if len(squares) else 0.0


def indicator(grid: "Grid", normals: Floats, areas: Floats, blur: float = 0.0) -> Floats:
    """chi on the grid, about 1 inside, 0 outside and 1/2 at the points.

    `blur` is the standard deviation of the Gaussian with which the field of normals is smoothed, beside one grid step.
    The weight of the values at the points falls with its cube.
    """
    shape, width = grid.shape, math.hypot(grid.step, blur)
    divergence = numpy.zeros(grid.squares.shape, numpy.complex64)
    for axis in range(3):
        field = grid.spread(normals[:, axis] * areas)
        divergence += 1j * grid.frequencies[axis] * fft.rfftn(field)  # of -V
    divergence *= numpy.exp(-0.5 * width**2 * grid.squares)  # without frequencies that the grid cannot represent
    smallest = (2 * numpy.pi / (grid.step * max(shape))) ** 2
    inverse = 1 / (grid.squares + smallest)
    weights = SCREENING * grid.step**2 / width**3 * areas

    def solved(values: Floats) -> Floats:
        return fft.irfftn(fft.rfftn(values) * inverse, s=shape)  # type: ignore[no-any-return]

    def applied(values: Floats) -> Floats:
        laplacian = fft.irfftn(fft.rfftn(values) * grid.squares, s=shape)
        return laplacian + grid.spread(weights * grid.at(values))  # type: ignore[no-any-return]

    first = divergence / numpy.maximum(grid.squares, smallest)
    first[0, 0, 0] = 0
    chi = fft.irfftn(first, s=shape)
    chi -= numpy.median(chi[0])  # which is outside
    remaining = fft.irfftn(divergence, s=shape) + grid.spread(weights * 0.5) - applied(chi)
    towards = solved(remaining)
    direction, product = towards, float((remaining * towards).sum())
    for _ in range(ITERATIONS):
        if product == 0:
            break
        changed = applied(direction)
        length = product / float((direction * changed).sum())
        chi, remaining = chi + length * direction, remaining - length * changed
        towards = solved(remaining)
        before, product = product, float((remaining * towards).sum())
        direction = towards + product / before * direction
    return chi  # type: ignore[no-any-return]


def _closed(chi: Floats, level: float) -> Floats:
    """chi without values near `level`, and below it at the boundary of the grid, so that the surface is closed."""
    least = APART * max(float(numpy.ptp(chi)), 1e-6)
    chi = numpy.where(abs(chi - level) < least, level + least, chi)
    for axis in range(3):
        for end in (0, -1):
            side = numpy.moveaxis(chi, axis, 0)[end]
            side[...] = numpy.minimum(side, level - least)
    return chi.astype(numpy.float32)


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid around points, with trilinear interpolation at the points.

    * `origin`: the position of the first grid point, `[3]`.
    * `step`: the distance of grid points.
    * `shape`: the number of grid points along each axis.
    * `corners`, `weights`: for each point the 8 grid points around it and their weights, `[N, 8]`.
    """

    origin: Floats
    step: float
    shape: tuple[int, ...]
    corners: Integers
    weights: Floats

    @classmethod
    def around(cls, points: Floats, resolution: int) -> "Grid":
        """The grid whose longest side has about `resolution` grid points. All sides have sizes quick to transform."""
        low, high = points.min(0), points.max(0)
        margin = MARGIN * float((high - low).max())
        step = float((high - low).max() + 2 * margin) / (resolution - 1)
        shape = tuple(fft.next_fast_len(int(side / step) + 2, real=True) for side in high - low + 2 * margin)
        origin = (low + high) / 2 - step * (numpy.array(shape) - 1) / 2
        places = (points - origin) / step
        first = places.astype(numpy.int64)
        rest = places - first
        corners, weights = [], []
        for corner in numpy.ndindex(2, 2, 2):
            corners.append(numpy.ravel_multi_index(tuple((first + corner).T), shape))
            weights.append(numpy.where(corner, rest, 1 - rest).prod(1))
        return cls(origin, step, shape, numpy.stack(corners, 1), numpy.stack(weights, 1))

    def at(self, values: Floats) -> Floats:
        """The values on the grid interpolated at the points, `[N]`."""
        return (values.reshape(-1)[self.corners] * self.weights).sum(1)  # type: ignore[no-any-return]

    def spread(self, values: Floats) -> Floats:
        """Values `[N]` of the points as a density on the grid: the adjoint of `at`, divided by the volume of a cell."""
        spread = numpy.bincount(self.corners.ravel(), (self.weights * values[:, None]).ravel(), numpy.prod(self.shape))
        return (spread / self.step**3).reshape(self.shape).astype(numpy.float32)  # type: ignore[no-any-return]

    @cached_property
    def frequencies(self) -> list[Floats]:
        """The angular frequencies along each axis, in the form that broadcasts to a real transform of the grid."""
        last = len(self.shape) - 1
        each = [(fft.rfftfreq if axis == last else fft.fftfreq)(n, self.step) for axis, n in enumerate(self.shape)]
        return [
            (2 * numpy.pi * values).astype(numpy.float32).reshape([-1 if axis == k else 1 for k in range(3)])
            for axis, values in enumerate(each)
        ]

    @cached_property
    def squares(self) -> Floats:
        """The squared length of the frequencies, which is minus the Laplacian."""
        return sum(values**2 for values in self.frequencies)  # type: ignore[return-value]
