"""STL files: triangles, binary or as text."""

import re

import numpy

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.formats.content import text_of
from diffcore_pointcloud.formats.shape import Shape

_HEADER = 84
_TRIANGLE = numpy.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERTEX = re.compile(r"\bvertex\s+(\S+)\s+(\S+)\s+(\S+)", re.IGNORECASE)


def read(data: bytes) -> list[Shape]:
    """The triangles of an STL file. Raises `UnusableError` if it announces more than it contains.

    Many programs begin binary files with `solid` too, so a file whose size is that of its number of triangles is
    binary.
    """
    count = int.from_bytes(data[80:_HEADER], "little") if len(data) >= _HEADER else -1
    binary = count >= 0 and len(data) == _HEADER + count * _TRIANGLE.itemsize
    if not binary and data.lstrip()[:5].lower() == b"solid":
        text = text_of(data)
        found = _VERTEX.findall(text)
        if not re.search(r"\bendsolid\b", text, re.IGNORECASE) or len(found) % 3:
            raise UnusableError("damaged: an STL text that ends before `endsolid`")
        corners = numpy.array(found, dtype=numpy.float64).reshape(-1, 3)
    else:
        if count < 0 or len(data) < _HEADER + count * _TRIANGLE.itemsize:
            raise UnusableError(f"damaged: {max(count, 0):,} triangles are announced, and the file ends before")
        corners = numpy.frombuffer(data, _TRIANGLE, count, _HEADER)["corners"].reshape(-1, 3).astype(numpy.float64)
    return [Shape(corners, faces=numpy.arange(len(corners)).reshape(-1, 3))]
