"""Geometry of points and surfaces, behind one seam: by PyTorch3D where it is installed, else by torch and scipy.

Everything that samples surfaces, looks for neighbours, thins clouds or draws them asks `backend()` for a `Geometry`.
What is checked and what is the same for all stands here; a backend has four functions on tensors of one form. Other
libraries can offer them too: they are the protocol `Kernels`.
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
"""Modules of this package by name of backend, the preferred first."""


class Kernels(Protocol):
    """What a backend does. Batches `[B, ...]` have one axis; values have been checked."""

    def surface(self, vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Geometry.surface_points`."""

    def nearest(self, queries: Tensor, points: Tensor, k: int) -> Tensor:
        """Indices `[B, P, k]` of the nearest of `points` `[B, Q, 3]` to `queries` `[B, P, 3]`, the nearest first."""

    def farthest(self, points: Tensor, count: int) -> Tensor:
        """See `Geometry.farthest`; `points` `[B, P, 3]`."""

    def rasterise(self, places: Tensor, depth: Tensor, radii: Tensor, height: int, width: int) -> Tensor:
        """Indices `[height, width]` of the point with the least `depth` `[P]` whose disc covers the middle of a pixel.

        `places` `[P, 2]` are right and down and `radii` `[P]` are lengths, in pixels; the middle of the first pixel is
        (0.5, 0.5). No depth is below zero. Of equal depths the first point is seen. -1 where there is no disc.
        """


@dataclass(frozen=True)
class Camera:
    """A view of points: rotation (p - centre) has x right, y up and z towards the viewer.

    `rotation` `[3, 3]` is about `centre` `[3]`, which is in the middle of the picture. Half the shorter side of the
    picture shows the length `extent` at the centre. Without `distance` the projection is orthographic; with it the eye
    is so far from the centre, and what is nearer looks larger: points behind the eye are not drawn.
    """

    rotation: Tensor
    centre: Tensor
    extent: float
    distance: float | None = None

    def __post_init__(self) -> None:
        if not self.extent > 0:
            raise ValueError("a camera needs an extent above zero")
        if self.distance is not None and not self.distance > 0:
            raise ValueError("a camera's distance must be above zero")


@dataclass(frozen=True)
class Rendered:
    """What each pixel shows: `index` `[H, W]` of the nearest point, and its `depth` `[H, W]`.

    Depth is the distance from the plane through the eye or, for orthographic views, from the plane through the centre:
    smaller is nearer. Pixels that show nothing have index -1 and depth inf.
    """

    index: Tensor
    depth: Tensor

    def coloured(self, colours: Tensor, background: Tensor) -> Tensor:
        """The picture `[H, W, C]` whose pixels have the colours `[P, C]` of their points, or `background` `[C]`."""
        seen = self.index >= 0
        return torch.where(seen[..., None], colours[self.index.clamp(min=0)], background.to(colours.dtype))


@dataclass(frozen=True)
class Geometry:
    """Geometry by the kernels of one backend. Leading axes `..` are free."""

    name: str
    kernels: Kernels

    def surface_points(
        self, vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """`count` points drawn evenly by area from triangles: points `[count, 3]`, and the face of each `[count]`.

        `vertices` `[V, 3]`, `faces` `[F, 3]` of indices. A face is drawn with its share of the area; within it the
        point is (1 - sqrt(u)) a + sqrt(u) (1 - v) b + sqrt(u) v c for even u and v (Osada et al. 2002). A seed gives
        the same points each time, but other ones with another backend. Raises `ValueError` where there is no area.
        """
        corners = vertices.double()[faces]
        area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1).sum()
        if not (area > 0 and area.isfinite()):
            raise ValueError("these faces have no area, or vertices that are not finite")
        return self.kernels.surface(vertices, faces, count, generator)

    def nearest(self, queries: Tensor, points: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """The `k` nearest of `points` `[.., Q, 3]` to each of `queries` `[.., P, 3]`.

        Squared distances and indices, `[.., P, k]`, the nearest first. Distances are differences squared, so small ones
        are exact, and gradients go through them. Which of equally near points comes first is open.
        """
        if not 1 <= k <= points.shape[-2]:
            raise ValueError(f"{k} nearest of {points.shape[-2]} points")
        flat_queries, flat_points = queries.reshape(-1, *queries.shape[-2:]), points.reshape(-1, *points.shape[-2:])
        with torch.no_grad():
            indices = self.kernels.nearest(_precise(flat_queries), _precise(flat_points), k)
        rows = torch.arange(len(flat_points), device=points.device)[:, None, None]
        squared = (flat_queries[:, :, None] - flat_points[rows, indices]).square().sum(-1)
        shape = (*queries.shape[:-1], k)
        return squared.reshape(shape), indices.reshape(shape)

    def farthest(self, points: Tensor, count: int) -> Tensor:
        """Indices `[.., count]` of farthest point sampling of `points` `[.., P, 3]`.

        The first is point 0; each next one is that farthest from all before it (Gonzalez 1985; Eldar et al. 1997).
        """
        if not 1 <= count <= points.shape[-2]:
            raise ValueError(f"{count} of {points.shape[-2]} points")
        with torch.no_grad():
            indices = self.kernels.farthest(_precise(points.reshape(-1, *points.shape[-2:])), count)
        return indices.reshape(*points.shape[:-2], count)

    def chamfer(self, first: Tensor, second: Tensor) -> Tensor:
        """Chamfer distance `[B]` of clouds `[B, P, 3]` and `[B, Q, 3]`.

        mean_p min_q |p - q|^2 + mean_q min_p |p - q|^2: squared distances, means over points, the sum of both ways. So
        do PointFlow (Yang et al. 2019) and those after it count in their tables; others halve it, or take roots.
        """
        return self.nearest(first, second)[0].mean((-2, -1)) + self.nearest(second, first)[0].mean((-2, -1))

    def render(self, points: Tensor, camera: Camera, height: int, width: int, radius: float) -> Rendered:
        """Points `[P, 3]` as discs of `radius`, a length like theirs, that face the viewer; the nearest is seen.

        A pixel shows a disc that covers its middle. Points that are not finite are not drawn.
        """
        points = points.float()
        seen = (points - camera.centre.to(points)) @ camera.rotation.to(points).T
        depth = -seen[:, 2] if camera.distance is None else camera.distance - seen[:, 2]
        enlarged = torch.ones_like(depth) if camera.distance is None else camera.distance / depth
        pixels = enlarged * min(height, width) / (2 * camera.extent)
        middle = points.new_tensor([width / 2, height / 2])
        places = middle + seen[:, :2] * points.new_tensor([1, -1]) * pixels[:, None]
        drawn = torch.isfinite(places).all(1) & torch.isfinite(depth)
        if camera.distance is not None:
            drawn &= depth > 1e-3 * camera.distance
        rows = drawn.nonzero()[:, 0]
        if not len(rows):
            nothing = torch.full((height, width), -1, dtype=torch.int64, device=points.device)
            return Rendered(nothing, nothing.new_full((height, width), torch.inf, dtype=points.dtype))
        behind = depth[rows] - depth[rows].min()
        index = self.kernels.rasterise(places[rows], behind, pixels[rows] * radius, height, width)
        hit = index >= 0
        index = torch.where(hit, rows[index.clamp(min=0)], -1)
        return Rendered(index, torch.where(hit, depth[index.clamp(min=0)], torch.inf))


def _precise(points: Tensor) -> Tensor:
    """In float64 where they are, else in float32."""
    return points if points.dtype == torch.float64 else points.float()


def backend(name: str | None = None) -> Geometry:
    """The geometry by the backend of this name, else that of `DIFFCORE_GEOMETRY`, else the first that can be imported.

    Raises `UserError` for a name that is unknown or asks for what is not installed.
    """
    asked = name or os.environ.get(VARIABLE)
    if not asked:
        return next(found for found in map(_loaded, BACKENDS) if found is not None)
    where = "" if name else f"{VARIABLE}: "
    if asked not in BACKENDS:
        raise UserError(f"{where}there is no geometry backend {asked!r}; there are: {', '.join(BACKENDS)}")
    found = _loaded(asked)
    if found is None:
        raise UserError(f"{where}the geometry backend {asked!r} cannot be imported; install it, or say 'plain'")
    return found


@functools.cache
def _loaded(name: str) -> Geometry | None:
    """A backend, or None where what it needs is not there, or was built for another torch."""
    try:
        return Geometry(name, cast(Kernels, importlib.import_module(f"{__package__}.{name}")))
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None
