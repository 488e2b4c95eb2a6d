"""One interface for geometry of points and surfaces: by PyTorch3D if it is installed, else by torch and scipy.

All code that samples surfaces, finds neighbours, subsamples clouds or renders them uses the `Geometry` that `backend()`
returns. It checks arguments and does what is common to all backends. A backend implements four functions on tensors of
fixed shapes, the protocol `Kernels`; other libraries can implement it too.
"""

import functools
import importlib
import os
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from diffcore.errors import UserError

VARIABLE = "DIFFCORE_GEOMETRY"
"""The environment variable that names a backend."""

BACKENDS = ("pytorch3d", "plain")
"""The names of the backends, which are modules of this package, in order of preference."""


class Kernels(Protocol):
    """The functions of a backend. Batches `[B, ...]` have one axis, and arguments have been checked."""

    def surface(self, vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Geometry.surface_points`."""

    def nearest(self, queries: Tensor, points: Tensor, k: int) -> Tensor:
        """Indices `[B, P, k]` of the nearest of `points` `[B, Q, 3]` to `queries` `[B, P, 3]`, the nearest first."""

    def farthest(self, points: Tensor, count: int) -> Tensor:
        """See `Geometry.farthest`; `points` `[B, P, 3]`."""

    def rasterise(self, centres: Tensor, depth: Tensor, radii: Tensor, height: int, width: int) -> Tensor:
        """For each pixel `[height, width]` the index of the nearest point whose disc covers its centre, or -1.

        Discs have `centres` `[P, 2]` (to the right and down) and `radii` `[P]` in pixels; the centre of the first pixel
        is (0.5, 0.5). `depth` `[P]` is not negative; of points with equal depth the first one is visible.
        """


@dataclass(frozen=True)
class Camera:
    """A view of points: in the coordinates rotation (p - centre), x is to the right, y up and z towards the viewer.

    `centre` `[3]` is in the middle of the picture; `rotation` is `[3, 3]`. At the centre, half of the shorter side of
    the picture shows the length `extent`. Without `distance` the projection is orthographic. Otherwise it is a
    perspective projection whose eye is at this distance from the centre; points behind the eye are not drawn.
    """

    rotation: Tensor
    centre: Tensor
    extent: float
    distance: float | None = None

    def __post_init__(self) -> None:
        if not self.extent > 0:
            raise ValueError("the extent of a camera must be positive")
        if self.distance is not None and not self.distance > 0:
            raise ValueError("the distance of a camera must be positive")


@dataclass(frozen=True)
class Rendered:
    """For each pixel the `index` `[H, W]` of the visible point, and its `depth` `[H, W]`.

    Depth is the distance from the plane through the eye or, for orthographic views, from the plane through the centre:
    smaller is nearer. Pixels without a point have index -1 and depth inf.
    """

    index: Tensor
    depth: Tensor

    def coloured(self, colours: Tensor, background: Tensor) -> Tensor:
        """A picture `[H, W, C]` with the `colours` `[P, C]` of the visible points, elsewhere the `background` `[C]`."""
        visible = self.index >= 0
        return torch.where(visible[..., None], colours[self.index.clamp(min=0)], background.to(colours.dtype))


@dataclass(frozen=True)
class Geometry:
    """Geometry computed by the kernels of one backend. `..` stands for any number of leading axes."""

    name: str
    kernels: Kernels

    def surface_points(
        self, vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """`count` points drawn uniformly from the surface of triangles: points `[count, 3]`, and their faces `[count]`.

        `vertices` are `[V, 3]` and `faces` `[F, 3]` indices of vertices. A face is drawn with a probability in
        proportion to its area; the point in it is (1 - sqrt(u)) a + sqrt(u) (1 - v) b + sqrt(u) v c for uniform u and v
        (Osada et al. 2002). A seed always gives the same points with one backend, and others with another backend.
        Raises `ValueError` if the total area is zero or not finite.
        """
        corners = vertices.double()[faces]
        area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1).sum()
        if not (area > 0 and area.isfinite()):
            raise ValueError("the faces have no area, or vertices that are not finite")
        return self.kernels.surface(vertices, faces, count, generator)

    def nearest(self, queries: Tensor, points: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """The `k` nearest of `points` `[.., Q, 3]` to each of `queries` `[.., P, 3]`.

        Returns squared distances and indices, `[.., P, k]`, the nearest first. Distances are computed from differences,
        so small ones are accurate, and they are differentiable. The order of equally near points is not specified.
        Raises `ValueError` if there are fewer than `k` points.
        """
        if not 1 <= k <= points.shape[-2]:
            raise ValueError(f"k must be from 1 to the number of points, {points.shape[-2]}; got {k}")
        flat_queries, flat_points = queries.reshape(-1, *queries.shape[-2:]), points.reshape(-1, *points.shape[-2:])
        with torch.no_grad():
            indices = self.kernels.nearest(_precise(flat_queries), _precise(flat_points), k)
        rows = torch.arange(len(flat_points), device=points.device)[:, None, None]
        squared = (flat_queries[:, :, None] - flat_points[rows, indices]).square().sum(-1)
        shape = (*queries.shape[:-1], k)
        return squared.reshape(shape), indices.reshape(shape)

    def farthest(self, points: Tensor, count: int) -> Tensor:
        """The indices `[.., count]` that farthest point sampling chooses from `points` `[.., P, 3]`.

        The first is point 0; each further one has the largest distance to the nearest of those before it (Gonzalez
        1985; Eldar et al. 1997). Raises `ValueError` if there are fewer than `count` points.
        """
        if not 1 <= count <= points.shape[-2]:
            raise ValueError(f"count must be from 1 to the number of points, {points.shape[-2]}; got {count}")
        with torch.no_grad():
            indices = self.kernels.farthest(_precise(points.reshape(-1, *points.shape[-2:])), count)
        return indices.reshape(*points.shape[:-2], count)

    def chamfer(self, first: Tensor, second: Tensor) -> Tensor:
        """Chamfer distance `[B]` of clouds `[B, P, 3]` and `[B, Q, 3]`.

        mean_p min_q |p - q|^2 + mean_q min_p |p - q|^2: the mean squared distances of both directions are summed. This
        is the definition of PointFlow (Yang et al. 2019) and its successors; others halve it, or do not square.
        """
        return self.nearest(first, second)[0].mean((-2, -1)) + self.nearest(second, first)[0].mean((-2, -1))

    def render(self, points: Tensor, camera: Camera, height: int, width: int, radius: float) -> Rendered:
        """Render points `[P, 3]` as discs that face the viewer, with a `radius` in the unit of the points.

        A pixel shows the nearest disc that covers its centre. Points that are not finite are not drawn.
        """
        points = points.float()
        view = (points - camera.centre.to(points)) @ camera.rotation.to(points).T
        depth = -view[:, 2] if camera.distance is None else camera.distance - view[:, 2]
        enlarged = torch.ones_like(depth) if camera.distance is None else camera.distance / depth
        pixels = enlarged * min(height, width) / (2 * camera.extent)  # per unit of length
        middle = points.new_tensor([width / 2, height / 2])
        centres = middle + view[:, :2] * points.new_tensor([1, -1]) * pixels[:, None]
        drawn = torch.isfinite(centres).all(1) & torch.isfinite(depth)
        if camera.distance is not None:
            drawn &= depth > 1e-3 * camera.distance
        rows = drawn.nonzero()[:, 0]
        if not len(rows):
            empty = torch.full((height, width), -1, dtype=torch.int64, device=points.device)
            return Rendered(empty, empty.new_full((height, width), torch.inf, dtype=points.dtype))
        behind = depth[rows] - depth[rows].min()
        index = self.kernels.rasterise(centres[rows], behind, pixels[rows] * radius, height, width)
        hit = index >= 0
        index = torch.where(hit, rows[index.clamp(min=0)], -1)
        return Rendered(index, torch.where(hit, depth[index.clamp(min=0)], torch.inf))


def _precise(points: Tensor) -> Tensor:
    """float64 stays float64; other types become float32."""
    return points if points.dtype == torch.float64 else points.float()


def backend(name: str | None = None) -> Geometry:
    """The geometry of the backend `name`, or of that in `DIFFCORE_GEOMETRY`, or of the first one that can be imported.

    Raises `UserError` if the name is unknown or the backend cannot be imported.
    """
    chosen = name or os.environ.get(VARIABLE)
    if not chosen:
        return next(found for found in map(_loaded, BACKENDS) if found is not None)
    where = "" if name else f"{VARIABLE}: "
    if chosen not in BACKENDS:
        raise UserError(f"{where}unknown geometry backend {chosen!r}; backends are {', '.join(BACKENDS)}")
    found = _loaded(chosen)
    if found is None:
        raise UserError(f"{where}the geometry backend {chosen!r} cannot be imported; install it, or choose 'plain'")
    return found


@functools.cache
def _loaded(name: str) -> Geometry | None:
    """The geometry of a backend, or None if its dependencies are not installed or were built for another torch."""
    try:
        return Geometry(name, cast(Kernels, importlib.import_module(f"{__package__}.{name}")))
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None
