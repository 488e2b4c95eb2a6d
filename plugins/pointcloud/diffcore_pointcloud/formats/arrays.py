"""Clouds as NumPy arrays: NPY and NPZ files."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, cast

import numpy
from numpy.lib import format as npy
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.formats.columns import LABELS, bytes_of, named, plain, unnamed
from diffcore_pointcloud.formats.content import MOST_DECODED
from diffcore_pointcloud.formats.shape import Shape

_NAMES = {
    "positions": ("positions", "points", "coords", "xyz", "pos", "pc", "pointcloud", "point_cloud"),
    "normals": ("normals",),
    "colours": ("colours", "colors", "rgb"),
}
"""The names of arrays `[points, 3]` in NPZ files. Point-E has the colours as R, G and B `[points]`."""


def read_npy(data: bytes, names: Sequence[str]) -> list[Shape]:
    """The clouds of an array `[points, columns]`, or of several clouds `[clouds, points, columns]`."""
    return _clouds(_array(io.BytesIO(data), len(data)), names)


def read_npz(data: bytes, names: Sequence[str]) -> list[Shape]:
    """The clouds of arrays named as in `_NAMES`, or of a lone array.

    Only arrays that are needed are decoded, after the sizes that the file states have been checked: a small file can
    decode to many gigabytes.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        chosen = _chosen(list(entries))
        if (total := sum(entries[name].file_size for name in chosen)) > MOST_DECODED:
            raise UnusableError(f"its arrays decode to {total:,} bytes; at most {MOST_DECODED:,} are read")
        arrays = {}
        for name in chosen:
            with archive.open(entries[name]) as file:
                arrays[name] = _array(cast(BinaryIO, file), entries[name].file_size)
    if len(arrays) == 1 and (only := next(iter(arrays))) not in _NAMES["positions"]:
        return _clouds(arrays[only], names)
    return _by_name(arrays, names)


def _chosen(available: Sequence[str]) -> list[str]:
    """The names of the arrays to read. Raises `UnusableError` if none of them are coordinates."""
    lower = {name.lower(): name for name in reversed(available)}
    wanted = [name for names in _NAMES.values() for name in names] + ["x", "y", "z", "r", "g", "b"]
    chosen = [lower[name] for name in wanted if name in lower]
    chosen += [name for name in available if plain(name) in LABELS]
    if any(name in lower for name in _NAMES["positions"]) or {"x", "y", "z"} <= lower.keys():
        return chosen
    if len(available) == 1:
        return list(available)
    raise UnusableError(f"no array with the name positions or points, only {', '.join(available[:12]) or 'none'}")


def _by_name(arrays: Mapping[str, NDArray], names: Sequence[str]) -> list[Shape]:
    lower = {name.lower(): array for name, array in arrays.items()}
    found = {group: next((lower[key] for key in keys if key in lower), None) for group, keys in _NAMES.items()}
    positions, normals, colours = found.values()
    if colours is None and {"r", "g", "b"} <= lower.keys():
        colours = numpy.stack([lower[name] for name in "rgb"], -1)
    if positions is None:
        positions = numpy.stack([lower[name] for name in "xyz"], -1)
    shapes = _clouds(positions, names)
    several, labels = positions.ndim == 3, _labels(arrays, positions.shape[:-1])
    for name, values in (("normals", normals), ("colours", colours)):
        if values is not None and values.dtype.kind not in "fiu":
            raise UnusableError(f"{name} of type {values.dtype}, not of numbers")
        if values is not None and values.shape != (*positions.shape[:-1], 3):
            raise UnusableError(f"{name} of shape {list(values.shape)} for {positions.shape[-2]} points")
    return [
        Shape(
            shape.positions,
            shape.normals if normals is None else (normals[k] if several else normals).astype(numpy.float64),
            shape.colours if colours is None else (bytes_of(colours)[k] if several else bytes_of(colours)),
            note=shape.note,
            labels=shape.labels if labels is None else (labels[k] if several else labels).astype(numpy.float64),
        )
        for k, shape in enumerate(shapes)
    ]


def _labels(arrays: Mapping[str, NDArray], shape: tuple[int, ...]) -> NDArray | None:
    """The labels of points, in an array of numbers with the `shape` `[points]` or `[clouds, points]`, if there is one.

    Arrays of other shapes that are called label, such as the class of each cloud, are passed over.
    """
    found = (array for name, array in arrays.items() if plain(name) in LABELS)
    return next((array for array in found if array.shape == shape and array.dtype.kind in "fiu"), None)


def _clouds(rows: NDArray, names: Sequence[str]) -> list[Shape]:
    """An array of fields with names, of one cloud `[points, columns]`, or of several."""
    if rows.dtype.names:
        return [named({name: rows[name] for name in rows.dtype.names})]
    if rows.ndim == 3:
        if not len(rows):
            raise UnusableError("no clouds")
        return [unnamed(cloud, names, "") for cloud in rows]
    return [unnamed(rows, names, "")]


def _array(file: BinaryIO, size: int) -> NDArray[Any]:
    """The array in an NPY file of `size` bytes, whose header must state no more values than the file can have."""
    version = npy.read_magic(file)
    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if header is None:
        raise UnusableError(f"version {version} of the NPY format, which is not supported")
    shape, in_columns, dtype = header(file)
    if dtype.hasobject:
        raise UnusableError("pickled objects, which are not read because they can execute code")
    number = 1
    for side in shape:
        number *= side
    needed = number * dtype.itemsize
    if min(shape, default=0) < 0 or needed > size:
        raise UnusableError(f"damaged: an array of {needed:,} bytes is announced, and the file has {size:,}")
    values = numpy.frombuffer(_exactly(file, needed), dtype=dtype, count=number)
    return values.reshape(shape[::-1]).T if in_columns else values.reshape(shape)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise UnusableError("damaged: the file ends in the middle of its array")
    return data
