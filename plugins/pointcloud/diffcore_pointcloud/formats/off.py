"""OFF files: points and polygons, with optional colours and normals."""

import re

import numpy

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.formats.columns import bytes_of
from diffcore_pointcloud.formats.content import text_of
from diffcore_pointcloud.formats.shape import Floats, Shape
from diffcore_pointcloud.geometry.polygons import triangulated

_KIND = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF")


def read(data: bytes) -> list[Shape]:
    """The points and faces of an OFF file (Geomview's format); the kinds COFF, NOFF and STOFF are read too.

    In many files of ModelNet, the numbers follow in the first line, without a space. Raises `UnusableError` for other
    text, for a binary body, and for files that end before their last face.
    """
    lines = [line for raw in text_of(data).splitlines() if (line := raw.partition("#")[0].strip())]
    kind = _KIND.match(lines[0]) if lines else None
    if kind is None:
        raise UnusableError("not an OFF file: it does not begin with `OFF`")
    if kind[4] or kind[5] or "BINARY" in lines[0].upper():
        raise UnusableError(f"an OFF file of the kind {lines[0][:20]!r}, which is not supported")
    lines = [rest, *lines[1:]] if (rest := lines[0][kind.end() :].strip()) else lines[1:]
    try:
        vertices, faces = (int(word) for word in lines[0].split()[:2])
    except (IndexError, ValueError):
        raise UnusableError("damaged: an OFF file without the numbers of its points and faces") from None
    if not (vertices >= 0 and faces >= 0 and 1 + vertices + faces <= len(lines)):
        raise UnusableError(f"damaged: {vertices:,} points and {faces:,} faces are announced, and the file ends before")
    rows = _table(lines[1 : 1 + vertices])
    normals = rows[:, 3:6] if kind[3] else None
    colours = rows[:, 3 + 3 * bool(kind[3]) :][:, :3] if kind[2] else None
    words = [line.split() for line in lines[1 + vertices : 1 + vertices + faces]]
    lengths = numpy.array([int(row[0]) for row in words], dtype=numpy.int64)
    if any(not 0 <= length < len(row) for length, row in zip(lengths.tolist(), words, strict=True)):
        raise UnusableError("damaged: a face with fewer points than announced")
    corners = [word for length, row in zip(lengths.tolist(), words, strict=True) for word in row[1 : 1 + length]]
    triangles, polygon = triangulated(rows[:, :3], lengths, numpy.array(corners, dtype=numpy.int64))
    painted = _face_colours([row[1 + length :] for length, row in zip(lengths.tolist(), words, strict=True)])
    return [
        Shape(
            rows[:, :3],
            normals,
            None if colours is None or colours.shape[1] < 3 else bytes_of(colours),
            triangles,
            None if painted is None else painted[polygon],
        )
    ]


def _table(lines: list[str]) -> Floats:
    """The numbers of lines of the same length, `[n, k]` with k at least 3."""
    if not lines:
        return numpy.zeros((0, 3))
    try:
        rows = numpy.loadtxt(lines, ndmin=2)
    except ValueError:
        raise UnusableError("damaged: points that are not rows of numbers") from None
    if rows.shape[1] < 3:
        raise UnusableError("damaged: points with fewer than three coordinates")
    return rows


def _face_colours(words: list[list[str]]) -> Floats | None:
    """The colours after the corners of faces: three or four numbers, of which those with a point are fractions."""
    if not words or any(len(row) not in (3, 4) for row in words):
        return None
    fractions = any("." in word for row in words for word in row)
    return numpy.array([row[:3] for row in words], dtype=numpy.float64) * (255 if fractions else 1)
