"""Reads files of meshes and draws points from their surfaces."""

from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.data.shapes import normals_of
from diffcore_pointcloud.data.sources import Cloud
from diffcore_pointcloud.formats import gltf, obj, off, ply, stl
from diffcore_pointcloud.formats.content import MOST_FACES, beside, content
from diffcore_pointcloud.formats.shape import Shape
from diffcore_pointcloud.geometry.kernels import backend
from diffcore_pointcloud.options import CloudOptions, FileOptions

MESH_ENDINGS = frozenset((".off", ".obj", ".ply", ".stl", ".glb"))
"""The endings of files that are read as meshes."""


def read_mesh(path: Path, options: FileOptions, generator: numpy.random.Generator) -> list[Cloud]:
    """A pool of points drawn uniformly from the surface of all meshes in a file, with normals and colours of the faces.

    Points are computed in float64 with the bounding box scaled to the cube [-1, 1], so the unit does not matter. Raises
    `UnusableError` if there are no faces, no area, or vertices that are not finite.
    """
    shapes = shapes_in(path, options.colours)
    with_faces = [shape for shape in shapes if len(shape.faces)]
    if not with_faces and any(len(shape.positions) for shape in shapes):
        raise UnusableError("no faces, only points, which the data set clouds reads from PLY, GLB and text")
    return [surface_of(with_faces, options, generator)]


@numpy.errstate(all="ignore")
def shapes_in(path: Path, colours: bool) -> list[Shape]:
    """All shapes in a file, with triangles if it has any.

    Other files are opened for `colours` only: the materials of OBJ files, in the folder of the file.
    """
    data = content(path)
    match path.suffix.lower():
        case ".ply":
            return ply.read(data)
        case ".obj":
            return obj.read(data, beside(path)) if colours else obj.read(data)
        case ".off":
            return off.read(data)
        case ".stl":
            return stl.read(data)
        case _:
            return gltf.read(data, colours)


@numpy.errstate(all="ignore")
def surface_of(shapes: list[Shape], options: CloudOptions, generator: numpy.random.Generator) -> Cloud:
    """Points of the surface of shapes with triangles, as `read_mesh` draws them."""
    if not shapes:
        raise UnusableError("no faces")
    if sum(len(shape.faces) for shape in shapes) > MOST_FACES:
        raise UnusableError(f"more than {MOST_FACES:,} triangles")
    triangles = numpy.concatenate([shape.positions[shape.faces] for shape in shapes])
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
    colours = _colours(shapes, unit, points, face.numpy()) if options.colours else None
    note = "; ".join(dict.fromkeys(shape.note for shape in shapes if shape.note))
    return Cloud(points.numpy() * half + centre, numpy.stack([low, high]), normals, colours, note)


def pool_of(options: CloudOptions) -> int:
    """The number of points that are stored for each shape."""
    return options.pool or max(2048, 4 * options.points)


def _colours(
    shapes: list[Shape], triangles: torch.Tensor, points: torch.Tensor, faces: NDArray[numpy.int64]
) -> NDArray[numpy.uint8] | None:
    """The colours of points on faces, uint8 `[P, 3]`; None if no shape has colours."""
    if not any(shape.has_colours for shape in shapes):
        return None
    weights = _barycentric(triangles[torch.from_numpy(faces)], points).numpy()
    colours = numpy.zeros((len(faces), 3))
    first = 0
    for shape in shapes:
        here = numpy.nonzero((faces >= first) & (faces < first + len(shape.faces)))[0]
        colours[here] = shape.colours_on(faces[here] - first, weights[here])
        first += len(shape.faces)
    if not (numpy.isfinite(colours).all() and colours.min() >= -1 and colours.max() <= 256):
        raise UnusableError("colours that are not between 0 and 255")
    return colours.round().clip(0, 255).astype(numpy.uint8)


def _barycentric(triangles: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The barycentric coordinates `[P, 3]` of points `[P, 3]` in triangles `[P, 3, 3]`: fractions of the area."""
    a, b, c = triangles.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    whole = normal.square().sum(1)
    second = (torch.linalg.cross(points - a, c - a) * normal).sum(1) / whole
    third = (torch.linalg.cross(b - a, points - a) * normal).sum(1) / whole
    return torch.stack([1 - second - third, second, third], 1)
