"""Reads files of points."""

from pathlib import Path

import numpy

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.data.sources import Cloud
from diffcore_pointcloud.formats import arrays, gltf, pcd, ply, text
from diffcore_pointcloud.formats.content import content
from diffcore_pointcloud.formats.shape import Shape
from diffcore_pointcloud.options import FileOptions

TEXT_ENDINGS = frozenset((".xyz", ".txt", ".pts", ".asc", ".csv"))
"""The endings of clouds that are text."""
CLOUD_ENDINGS = TEXT_ENDINGS | {".ply", ".pcd", ".npy", ".npz", ".glb"}
"""The endings of files that are read as clouds."""


@numpy.errstate(all="ignore")
def read_cloud(path: Path, options: FileOptions, generator: numpy.random.Generator) -> list[Cloud]:
    """The clouds in a file, each with its points in random order, so that the first ones are a random subset.

    A file has one cloud, except arrays `[clouds, points, 3]` and the files of all samples that this package writes.
    Raises `UnusableError` if the file has no points, or coordinates, normals, colours or labels with wrong values.
    """
    shapes = _shapes(path, options)
    if not shapes:
        raise UnusableError("no points outside of faces; the data set meshes reads faces")
    return [cloud_of(shape, options, generator) for shape in shapes]


def _shapes(path: Path, options: FileOptions) -> list[Shape]:
    data, ending = content(path), path.suffix.lower()
    match ending:
        case ".ply":
            return ply.read(data)
        case ".pcd":
            return pcd.read(data)
        case ".npy":
            return arrays.read_npy(data, options.columns)
        case ".npz":
            return arrays.read_npz(data, options.columns)
        case ".glb":
            shapes, ours = gltf.read_clouds(data)
            return [shape.transformed(_FROM_Y_UP) for shape in shapes] if ours and options.up == "z" else shapes
        case _:
            return text.read(data, options.columns, ending)


_FROM_Y_UP = numpy.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""The inverse of the rotation with which samples whose z axis points up are written to GLB files."""


def cloud_of(shape: Shape, options: FileOptions, generator: numpy.random.Generator) -> Cloud:
    """The points of a shape in random order, checked; the faces are ignored."""
    positions, normals, colours, labels = shape.positions, shape.normals, shape.colours, shape.labels
    if not len(positions):
        raise UnusableError("no points")
    finite = numpy.isfinite(positions).all(1)
    if not finite.all():
        count = int((~finite).sum())
        if not options.drop_not_finite:
            raise UnusableError(
                f"coordinates that are not finite numbers, of {count:,} of {len(positions):,} points; "
                "`data.drop_not_finite` leaves out such points"
            )
        if not finite.any():
            raise UnusableError("no point with finite coordinates")
        positions = positions[finite]
        normals, colours, labels = (None if part is None else part[finite] for part in (normals, colours, labels))
    order = generator.permutation(len(positions))
    if normals is not None and options.normals:
        length = numpy.linalg.norm(normals, axis=1, keepdims=True)
        if not (numpy.isfinite(length).all() and (length > 0).all()):
            raise UnusableError("normals that are zero or not finite")
        normals = (normals / length)[order]
    if colours is not None and options.colours:
        if not (numpy.isfinite(colours).all() and colours.min() >= 0 and colours.max() <= 255):
            raise UnusableError("colours that are not between 0 and 255")
        colours = colours[order].round().astype(numpy.uint8)
    parts = None
    if labels is not None and options.joint == "parts":
        parts = labels[order].astype(numpy.int64)
        if not (parts == labels[order]).all():
            raise UnusableError("labels of points that are not whole numbers")
    bounds = numpy.stack([positions.min(0), positions.max(0)])
    return Cloud(
        positions[order],
        bounds,
        normals if options.normals else None,
        colours if options.colours else None,  # type: ignore[arg-type]
        shape.note,
        dropped=int((~finite).sum()),
        order=order,
        parts=parts,
    )
