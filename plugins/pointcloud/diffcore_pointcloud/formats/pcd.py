"""PCD files, the format of the Point Cloud Library."""

import numpy
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.formats.columns import named
from diffcore_pointcloud.formats.content import require_text
from diffcore_pointcloud.formats.shape import Shape

_LONGEST_HEADER = 2**14
_MOST_COMPRESSED = 2**26
"""The largest number of bytes of compressed points when decoded."""


def read(data: bytes) -> list[Shape]:
    """The points of a PCD file whose points are text, binary, or compressed; `rgb` is split into its three colours.

    Raises `UnusableError` if the header is not that of a PCD file, or announces more than the file contains.
    """
    header, body = _header(data)
    names = header["FIELDS"]
    sizes, kinds = header["SIZE"], header["TYPE"]
    counts = header.get("COUNT", ["1"] * len(names))
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise UnusableError("damaged: the lines of the PCD header have different lengths")
    types = [f"<{ {'F': 'f', 'I': 'i', 'U': 'u'}[kind] }{int(size)}" for kind, size in zip(kinds, sizes, strict=True)]
    fields = [(f"{k}", kind, (int(count),)) for k, (kind, count) in enumerate(zip(types, counts, strict=True))]
    points = int(header["POINTS"][0]) if "POINTS" in header else int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
    row = numpy.dtype(fields)
    match header["DATA"][0]:
        case "ascii":
            columns = _text(body, row, points)
        case "binary":
            if points * row.itemsize > len(body):
                raise _cut_off(points)
            rows = numpy.frombuffer(body, row, points)
            columns = [rows[name] for name, *_ in fields]
        case "binary_compressed":
            columns = _compressed(body, row, points)
        case other:
            raise UnusableError(f"a PCD file with points in the format {other[:20]!r}, which is not supported")
    table = {name: column[:, 0] for name, column in zip(names, columns, strict=True) if column.shape[1]}
    for packed in ("rgb", "rgba"):
        if packed in table and table[packed].dtype.itemsize == 4:
            bits = numpy.ascontiguousarray(table.pop(packed)).view(numpy.uint32)
            table |= {name: (bits >> shift & 255).astype(numpy.uint8)
                      for name, shift in (("red", 16), ("green", 8), ("blue", 0))}  # fmt: skip
    normals = {"normal_x": "nx", "normal_y": "ny", "normal_z": "nz"}
    return [named({normals.get(name, name): values for name, values in table.items()})]


def _header(data: bytes) -> tuple[dict[str, list[str]], bytes]:
    header: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in header:
        end = data.find(b"\n", at, _LONGEST_HEADER)
        if end < 0:
            raise UnusableError("not a PCD file, or one whose header is cut off: it has no line `DATA`")
        words = data[at:end].decode("ascii", "replace").partition("#")[0].split()
        at = end + 1
        if words:
            header[words[0].upper()] = words[1:]
    if missing := {"FIELDS", "SIZE", "TYPE"} - header.keys():
        raise UnusableError(f"damaged: a PCD header without {', '.join(sorted(missing))}")
    return header, data[at:]


def _text(body: bytes, row: numpy.dtype, points: int) -> list[NDArray]:
    assert row.names is not None
    widths = [row[name].shape[0] for name in row.names]
    require_text(body)
    words = body.split()
    if points * sum(widths) > len(words):
        raise _cut_off(points)
    columns, table = [], numpy.array(words[: points * sum(widths)]).reshape(points, sum(widths))
    at = 0
    for name, width in zip(row.names, widths, strict=True):
        values = table[:, at : at + width]
        kind = row[name].base
        # Colours that are packed into a float are written as the number of that float, or as a whole number.
        columns.append(values.astype(numpy.float64).astype(kind) if kind.kind == "f" else values.astype(kind))
        at += width
    return columns


def _compressed(body: bytes, row: numpy.dtype, points: int) -> list[NDArray]:
    """The columns, which are stored one after the other."""
    assert row.names is not None
    packed, size = (int.from_bytes(body[k : k + 4], "little") for k in (0, 4))
    if size != points * row.itemsize or packed > len(body) - 8:
        raise _cut_off(points)
    if size > _MOST_COMPRESSED:
        raise UnusableError(f"compressed points of {size:,} bytes; at most {_MOST_COMPRESSED:,} are decoded")
    decoded, columns, at = _decompressed(body[8 : 8 + packed], size), [], 0
    for name in row.names:
        kind, (width,) = row[name].base, row[name].shape
        columns.append(numpy.frombuffer(decoded, kind, points * width, at).reshape(points, width))
        at += points * width * kind.itemsize
    return columns


def _decompressed(data: bytes, size: int) -> bytes:
    """The `size` bytes that LZF (Lehmann, liblzf) has compressed to `data`."""
    out, at = bytearray(), 0
    while at < len(data) and len(out) < size:
        control, at = data[at], at + 1
        if control < 32:  # a run of control + 1 literal bytes
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length, at = length + data[at], at + 1
        start = len(out) - ((control & 31) << 8) - data[at] - 1
        at, length = at + 1, length + 2
        if start < 0:
            raise UnusableError("damaged: compressed points that refer to bytes before the first")
        period = out[start : start + length]
        out += (period * (length // len(period) + 1))[:length]
    if len(out) != size:
        raise UnusableError("damaged: compressed points that do not decode to their number")
    return bytes(out)


def _cut_off(points: int) -> UnusableError:
    return UnusableError(f"damaged: {points:,} points are announced, and the file ends before")
