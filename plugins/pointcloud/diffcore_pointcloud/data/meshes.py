"""Reads files of meshes and draws points from their surfaces."""

from pathlib import Path

import numpy
import torch
import trimesh
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.data.shapes import normals_of
from diffcore_pointcloud.data.sources import Cloud
from diffcore_pointcloud.geometry.kernels import backend
from diffcore_pointcloud.options import CloudOptions, FileOptions

MESH_ENDINGS = frozenset((".off", ".obj", ".ply", ".stl", ".glb"))
"""The endings of files that are read as meshes."""


def read_mesh(path: Path, options: FileOptions, generator: numpy.random.Generator) -> Cloud:
    """A pool of points drawn uniformly from the surface of all meshes in a file, with normals and colours of the faces.

    Points are computed in float64 with the bounding box scaled to the cube [-1, 1], so the unit does not matter. Raises
    `UnusableError` if there are no faces, no area, or vertices that are not finite.
    """
    meshes = _meshes(path, options.colours)
    triangles = numpy.concatenate([numpy.asarray(mesh.triangles, dtype=numpy.float64) for mesh in meshes])
    if not numpy.isfinite(triangles).all():
        raise UnusableError("vertices that are not finite numbers")
    corners = triangles.reshape(-1, 3)
    low, high = corners.min(0), corners.max(0)
    centre, half = low / 2 + high / 2, float((high / 2 - low / 2).max())
    if half == 0:
        raise UnusableError("no area: all vertices are equal")
    unit = torch.from_numpy((triangles - centre) / half)
    doubled = torch.linalg.cross(unit[:, 1] - unit[:, 0], unit[:, 2] - unit[:, 0]).norm(dim=1)
    if not doubled.sum() > 0:
        raise UnusableError("no area: all faces are lines or points")
    torch_generator = torch.Generator().manual_seed(int(generator.integers(2**62)))
    vertices = torch.arange(3 * len(unit)).view(-1, 3)
    points, face = backend().surface_points(unit.reshape(-1, 3), vertices, pool_of(options), torch_generator)
    normals = normals_of(unit[face]).numpy() if options.normals else None
    colours = _colours(meshes, unit, points, face.numpy()) if options.colours else None
    return Cloud(points.numpy() * half + centre, numpy.stack([low, high]), normals, colours)


def pool_of(options: CloudOptions) -> int:
    """The number of points that are stored for each shape."""
    return options.pool or max(2048, 4 * options.points)


def _meshes(path: Path, colours: bool) -> list[trimesh.Trimesh]:
    """The meshes of a file that have faces, transformed as its scene graph defines."""
    # Materials are loaded only if they are needed, since their files are often missing.
    options = {} if colours or path.suffix.lower() != ".obj" else {"skip_materials": True}
    scene = trimesh.load_scene(path, process=False, **options)
    meshes = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not meshes:
        raise UnusableError("no faces")
    return meshes


def _colours(
    meshes: list[trimesh.Trimesh], triangles: torch.Tensor, points: torch.Tensor, faces: NDArray[numpy.int64]
) -> NDArray[numpy.uint8] | None:
    """The colours of points on faces, uint8 `[P, 3]`; None if no mesh has colours."""
    if not any(mesh.visual.defined for mesh in meshes):
        return None
    weights = _barycentric(triangles[torch.from_numpy(faces)], points).numpy()
    colours = numpy.full((len(faces), 3), 128, numpy.uint8)
    first = 0
    for mesh in meshes:
        here = numpy.nonzero((faces >= first) & (faces < first + len(mesh.faces)))[0]
        local, weight = faces[here] - first, weights[here]
        first += len(mesh.faces)
        visual = mesh.visual
        if not visual.defined or not len(here):
            continue
        if visual.kind == "texture":
            if visual.uv is None:
                rgba = numpy.broadcast_to(visual.material.main_color, (len(here), 4))
            else:
                rgba = visual.material.to_color((visual.uv[mesh.faces[local]] * weight[..., None]).sum(1))
        elif visual.kind == "vertex":
            rgba = (visual.vertex_colors[mesh.faces[local]] * weight[..., None]).sum(1).round()
        else:
            rgba = visual.face_colors[local]
        colours[here] = numpy.asarray(rgba)[:, :3]
    return colours


def _barycentric(triangles: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The barycentric coordinates `[P, 3]` of points `[P, 3]` in triangles `[P, 3, 3]`: fractions of the area."""
    a, b, c = triangles.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    whole = normal.square().sum(1)
    second = (torch.linalg.cross(points - a, c - a) * normal).sum(1) / whole
    third = (torch.linalg.cross(b - a, points - a) * normal).sum(1) / whole
    return torch.stack([1 - second - third, second, third], 1)
