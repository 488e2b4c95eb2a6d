"""OBJ files: points, polygons, and materials that lie in files beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.formats.columns import bytes_of
from diffcore_pointcloud.formats.content import Pictures, text_of
from diffcore_pointcloud.formats.shape import Floats, Integers, Shape, Texture
from diffcore_pointcloud.geometry.polygons import triangulated

Beside = Callable[[str], bytes | None]
"""A function of the name of a file that returns its content, or None if it may not or cannot be read."""


@dataclass
class _Lines:
    """The lines of a file by what they define."""

    points: list[list[str]] = field(default_factory=list)
    places: list[list[str]] = field(default_factory=list)
    faces: list[list[str]] = field(default_factory=list)
    before: list[tuple[int, int]] = field(default_factory=list)
    """For each face, the numbers of points and of places in textures before it, from which negative indices count."""
    materials: list[str] = field(default_factory=list)
    """For each face, the name of its material."""
    libraries: list[str] = field(default_factory=list)


def read(data: bytes, beside: Beside = lambda name: None) -> list[Shape]:
    """The points and faces of an OBJ file: one shape for each material with a texture, and one for all other faces.

    Colours after the coordinates are read, as MeshLab writes them. Files of materials and pictures are opened with
    `beside` only, which by default opens none. Raises `UnusableError` if faces name points that do not exist.
    """
    lines = _lines(text_of(data))
    positions, colours = _points(lines.points)
    lengths = numpy.array([len(face) for face in lines.faces], dtype=numpy.int64)
    corners = _indices(lines, 0)
    triangles, polygon = triangulated(positions, lengths, corners)
    shape = Shape(positions, None, colours, triangles)
    if not lines.libraries or not len(triangles):
        return [shape]
    materials = {}
    for name in lines.libraries:
        materials.update(_materials(beside(name), beside))
    return _painted(shape, lines, lengths, polygon, materials)


def _lines(text: str) -> _Lines:
    found, material = _Lines(), ""
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        kind, *words = line.partition("#")[0].split() or [""]
        if kind == "v":
            found.points.append(words)
        elif kind == "f":
            found.faces.append(words)
            found.before.append((len(found.points), len(found.places)))
            found.materials.append(material)
        elif kind == "vt":
            found.places.append(words)
        elif kind == "usemtl":
            material = " ".join(words)
        elif kind == "mtllib":
            found.libraries.append(" ".join(words))
    return found


def _points(rows: Sequence[Sequence[str]]) -> tuple[Floats, Floats | None]:
    """Positions, and colours if all points have them."""
    if any(len(row) < 3 for row in rows):
        raise UnusableError("damaged: points with fewer than three coordinates")
    try:
        positions = numpy.array([row[:3] for row in rows], dtype=numpy.float64).reshape(-1, 3)
        coloured = bool(rows) and all(len(row) in (6, 7) for row in rows)
        colours = numpy.array([row[-3:] for row in rows], dtype=numpy.float64) if coloured else None
    except ValueError:
        raise UnusableError("damaged: coordinates that are not numbers") from None
    return positions, None if colours is None else bytes_of(colours)


def _indices(lines: _Lines, part: int) -> Integers:
    """The indices of all corners of all faces: of points (`part` 0), or of places in textures (1), -1 without one."""
    corners = [corner for face in lines.faces for corner in face]
    try:
        if part == 0:
            found = numpy.array([int(corner.partition("/")[0]) for corner in corners], dtype=numpy.int64)
        else:
            words = [corner.split("/")[part : part + 1] for corner in corners]
            found = numpy.array([int(word[0]) if word and word[0] else 0 for word in words], dtype=numpy.int64)
    except (ValueError, OverflowError):
        raise UnusableError("damaged: faces with indices that are not whole numbers") from None
    before = numpy.array([numbers[part] for numbers in lines.before], dtype=numpy.int64)
    counted = numpy.repeat(before, [len(face) for face in lines.faces])
    return numpy.where(found < 0, counted + found, found - 1)


@dataclass
class _Material:
    colour: Floats
    picture: bytes | None = None
    wants_picture: bool = False


def _materials(data: bytes | None, beside: Beside) -> dict[str, _Material]:
    """The materials in a file, by name: their diffuse colour and their picture."""
    found: dict[str, _Material] = {}
    material = _Material(numpy.ones(3))
    for line in text_of(data or b"").splitlines():
        match line.partition("#")[0].split():
            case ["newmtl", *words]:
                material = found.setdefault(" ".join(words), _Material(numpy.full(3, 0.5)))
            case ["Kd", *words] if len(words) == 3:
                material.colour = numpy.array(words, dtype=numpy.float64).clip(0, 1)
            case ["map_Kd", *words] if words:
                material.picture, material.wants_picture = beside(words[-1]), True
    return found


def _painted(
    shape: Shape, lines: _Lines, lengths: Integers, polygon: Integers, materials: dict[str, _Material]
) -> list[Shape]:
    """The shape in parts: one for each material with a picture, and one for the others, coloured by face."""
    names = list(dict.fromkeys(lines.materials))
    if not any(name in materials for name in names):
        return [shape]
    used = [materials.get(name, _Material(numpy.full(3, 0.5))) for name in names]
    number = {name: k for k, name in enumerate(names)}
    of_triangle = numpy.array([number[name] for name in lines.materials])[polygon]
    pictures, parts, left, missing = Pictures(), [], numpy.ones(len(polygon), bool), 0
    places = _places(shape, lines, lengths, polygon) if any(each.picture is not None for each in used) else None
    for k, material in enumerate(used):
        if material.picture is None:
            missing += material.wants_picture
            continue
        own = of_triangle == k
        pixels = pictures.pixels(material.picture) if own.any() else None
        if pixels is not None and places is not None:
            texture = Texture(pixels, places[own], numpy.ones(3))
            parts.append(Shape(shape.positions, faces=shape.faces[own], texture=texture))
            left &= ~own
        missing += own.any() and pixels is None
    note = "textures that are missing, or not pictures beside the file: single colours are used" if missing else ""
    if left.any():
        colours = 255 * numpy.stack([material.colour for material in used])[of_triangle[left]]
        painted = None if shape.colours is not None else colours
        parts.append(Shape(shape.positions, None, shape.colours, shape.faces[left], painted))
    return [replace(part, note=note) for part in parts]


def _places(shape: Shape, lines: _Lines, lengths: Integers, polygon: Integers) -> Floats | None:
    """The places in the texture of the corners of triangles, `[F, 3, 2]`; None if there are none."""
    indices = _indices(lines, 1)
    rows = numpy.array([row[:2] for row in lines.places if len(row) >= 2], dtype=numpy.float64).reshape(-1, 2)
    if len(rows) != len(lines.places) or indices.size == 0 or indices.min() < 0 or indices.max() >= len(rows):
        return None
    # A corner of a triangle is one of the corners of its polygon, so its place is that of the same point there.
    corners = _indices(lines, 0)
    owner = numpy.repeat(numpy.arange(len(lengths)), lengths)
    key = owner * len(shape.positions) + corners
    order = numpy.argsort(key, kind="stable")
    wanted = polygon[:, None] * len(shape.positions) + shape.faces
    found = order[numpy.searchsorted(key, wanted, sorter=order)]
    return rows[indices[found]] * [1, -1] + [0, 1]
