"""PLY files: points with named properties, and polygons. Comments, which may name other files, are ignored.

The format is that of Turk (1994, "The PLY polygon file format"): a header in ASCII, then the rows of all elements as
text, or as binary numbers of either order of bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.formats.columns import bytes_of, named
from diffcore_pointcloud.formats.content import require_text
from diffcore_pointcloud.formats.shape import Shape
from diffcore_pointcloud.geometry.polygons import triangulated

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8",
}  # fmt: skip
_LONGEST_HEADER = 2**16


@dataclass
class _Property:
    name: str
    type: str
    count: str | None = None
    """The type of the number of values, for a list."""


@dataclass
class _Element:
    name: str
    rows: int
    properties: list[_Property] = field(default_factory=list)


@dataclass
class _Lists:
    """The values of a list property: the number of values of each row, and all values."""

    lengths: NDArray[numpy.int64]
    values: NDArray


_Columns = dict[str, NDArray | _Lists]


def read(data: bytes) -> list[Shape]:
    """The points of the file and its faces, if it has any; polygons are triangulated.

    Raises `UnusableError` if the header is not that of a PLY file, or announces more than the file contains.
    """
    order, elements, body = _header(data)
    tables = _text(elements, body) if order is None else _binary(elements, body, order)
    vertices = tables.get("vertex", {})
    shape = named({name: values for name, values in vertices.items() if not isinstance(values, _Lists)})
    faces = tables.get("face", {})
    corners = next((faces[name] for name in ("vertex_indices", "vertex_index") if name in faces), None)
    if not isinstance(corners, _Lists):
        return [shape]
    triangles, polygon = triangulated(shape.positions, corners.lengths, corners.values.astype(numpy.int64))
    return [replace(shape, faces=triangles, face_colours=_face_colours(faces, polygon))]


def _face_colours(faces: Mapping[str, NDArray | _Lists], polygon: NDArray) -> NDArray[numpy.float64] | None:
    columns = [faces.get(name) for name in ("red", "green", "blue")]
    if any(column is None or isinstance(column, _Lists) for column in columns):
        return None
    return bytes_of(numpy.stack(columns, 1))[polygon]  # type: ignore[arg-type]


def _header(data: bytes) -> tuple[str | None, list[_Element], bytes]:
    """The order of bytes, "<" or ">" (None: text), the elements, and what follows the header."""
    if not data.startswith(b"ply"):
        raise UnusableError("not a PLY file: it does not begin with `ply`")
    end = data.find(b"end_header", 0, _LONGEST_HEADER)
    if end < 0:
        raise UnusableError("damaged: a PLY header without `end_header`")
    order: str | None = ""
    elements: list[_Element] = []
    for line in data[:end].decode("ascii", "replace").splitlines()[1:]:
        match line.split():
            case ["format", kind, _]:
                order = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}.get(kind, "")
            case ["element", name, rows] if rows.isdecimal():
                elements.append(_Element(name, int(rows)))
            case ["property", "list", count, kind, name] if count in _TYPES and kind in _TYPES and elements:
                elements[-1].properties.append(_Property(name, _TYPES[kind], _TYPES[count]))
            case ["property", kind, name] if kind in _TYPES and elements:
                elements[-1].properties.append(_Property(name, _TYPES[kind]))
            case [] | ["comment" | "obj_info", *_]:
                continue
            case _:
                raise UnusableError(f"damaged: the line {line[:40]!r} in the PLY header")
    if order == "":
        raise UnusableError("damaged: a PLY header without a known format")
    body = data.find(b"\n", end) + 1
    if body == 0:  # line ends of old Macs
        body = data.find(b"\r", end) + 1
    return order, elements, data[body:]


def _text(elements: list[_Element], body: bytes) -> dict[str, _Columns]:
    require_text(body)
    try:
        values = numpy.array(body.split(), dtype=numpy.float64)
    except ValueError:
        raise UnusableError("damaged: text that is not numbers after the PLY header") from None
    tables: dict[str, _Columns] = {}
    at = 0
    for element in elements:
        wide = len(element.properties)
        if element.rows * wide > len(values) - at:
            raise _cut_off(element)
        if all(part.count is None for part in element.properties):
            rows = values[at : at + element.rows * wide].reshape(element.rows, wide)
            columns: _Columns = {part.name: _typed(rows[:, k], part) for k, part in enumerate(element.properties)}
            at += rows.size
        else:
            columns, at = _ragged_text(element, values, at)
        tables[element.name] = columns
    return tables


def _typed(values: NDArray, part: _Property) -> NDArray:
    """The values with the type of their property, if it can hold them."""
    with numpy.errstate(all="ignore"):
        typed = values.astype(part.type)
    return typed if part.type[0] != "f" and numpy.array_equal(typed, values) else values


def _ragged_text(element: _Element, values: NDArray, at: int) -> tuple[_Columns, int]:
    """The columns of an element with lists, and the index after its last value."""
    starts: dict[str, list[int]] = {part.name: [] for part in element.properties}
    lengths: dict[str, list[int]] = {part.name: [] for part in element.properties}
    for _ in range(element.rows):
        for part in element.properties:
            if at >= len(values):
                raise _cut_off(element)
            length = 1
            if part.count is not None:
                length, at = int(values[at]), at + 1
            if length < 0 or at + length > len(values):
                raise _cut_off(element)
            starts[part.name].append(at)
            lengths[part.name].append(length)
            at += length
    columns: _Columns = {}
    for part in element.properties:
        first, number = numpy.array(starts[part.name], int), numpy.array(lengths[part.name], int)
        if part.count is None:
            columns[part.name] = _typed(values[first], part)
        else:
            columns[part.name] = _Lists(number, values[_ranges(first, number)])
    return columns, at


def _ranges(first: NDArray, number: NDArray) -> NDArray:
    """The indices first[i], .., first[i] + number[i] - 1 for all i, one after the other."""
    before = numpy.repeat(first - (number.cumsum() - number), number)
    return before + numpy.arange(len(before))


def _binary(elements: list[_Element], body: bytes, order: str) -> dict[str, _Columns]:
    tables: dict[str, _Columns] = {}
    at = 0
    for element in elements:
        least = sum(numpy.dtype(part.count or part.type).itemsize for part in element.properties)
        if element.rows * least > len(body) - at:
            raise _cut_off(element)
        uniform = _uniform(element, body, at, order)
        tables[element.name], at = uniform if uniform is not None else _ragged_binary(element, body, at, order)
    return tables


def _uniform(element: _Element, body: bytes, at: int, order: str) -> tuple[_Columns, int] | None:
    """The columns if the lists of all rows are as long as those of the first row, else None."""
    if not element.rows or not element.properties:
        return {part.name: numpy.zeros(0) for part in element.properties if part.count is None}, at
    fields: list[tuple[str, str, int]] = []
    place = at
    for k, part in enumerate(element.properties):
        length = 1
        if part.count is not None:
            size = numpy.dtype(part.count).itemsize
            length = int(numpy.frombuffer(body[place : place + size].ljust(size, b"\0"), order + part.count)[0])
            fields.append((f"count{k}", order + part.count, 1))
            place += size
        if not 0 <= length <= len(body):
            return None
        fields.append((f"value{k}", order + part.type, length))
        place += length * numpy.dtype(part.type).itemsize
    row = numpy.dtype([(name, kind, (number,)) for name, kind, number in fields])
    if element.rows * row.itemsize > len(body) - at:
        return None
    rows = numpy.frombuffer(body, row, element.rows, at)
    columns: _Columns = {}
    for k, part in enumerate(element.properties):
        values = rows[f"value{k}"]
        if part.count is None:
            columns[part.name] = values[:, 0]
        elif (rows[f"count{k}"] != values.shape[1]).any():
            return None
        else:
            columns[part.name] = _Lists(numpy.full(element.rows, values.shape[1]), values.reshape(-1))
    return columns, at + rows.nbytes


def _ragged_binary(element: _Element, body: bytes, at: int, order: str) -> tuple[_Columns, int]:
    """The columns, row by row, and the index after the last byte."""
    starts: dict[str, list[int]] = {part.name: [] for part in element.properties}
    lengths: dict[str, list[int]] = {part.name: [] for part in element.properties}
    byteorder, sizes = "little" if order == "<" else "big", {part.name: numpy.dtype(part.type).itemsize
                                                             for part in element.properties}  # fmt: skip
    for part in element.properties:
        if part.count is not None and part.count[0] == "f":
            raise UnusableError("damaged: a list whose length is not a whole number")
    counts = {part.name: 0 if part.count is None else numpy.dtype(part.count).itemsize for part in element.properties}
    for _ in range(element.rows):
        for part in element.properties:
            length, counted = 1, counts[part.name]
            if counted:
                length, at = int.from_bytes(body[at : at + counted], byteorder), at + counted  # type: ignore[arg-type]
            starts[part.name].append(at)
            lengths[part.name].append(length)
            at += length * sizes[part.name]
            if at > len(body):
                raise _cut_off(element)
    columns: _Columns = {}
    every = numpy.frombuffer(body, numpy.uint8)
    for part in element.properties:
        first, number = numpy.array(starts[part.name], int), numpy.array(lengths[part.name], int)
        size = sizes[part.name]
        values = every[_ranges(first, number * size)].view(order + part.type)
        columns[part.name] = values if part.count is None else _Lists(number, values)
    return columns, at


def _cut_off(element: _Element) -> UnusableError:
    return UnusableError(f"damaged: {element.rows:,} rows of {element.name!r} are announced, and the file ends before")
