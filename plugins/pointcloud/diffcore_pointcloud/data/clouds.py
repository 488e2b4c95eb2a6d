"""Reads files of points."""

from pathlib import Path

import numpy
import trimesh
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.data.sources import Cloud
from diffcore_pointcloud.options import FileOptions

CLOUD_ENDINGS = frozenset((".ply", ".xyz", ".txt", ".npy", ".npz"))
"""The endings of files that are read as clouds."""

Columns = dict[str, NDArray[numpy.float64]]
"""`positions` `[points, 3]`, and optional `normals` and `colours` of the same shape."""


def read_cloud(path: Path, options: FileOptions, generator: numpy.random.Generator) -> Cloud:
    """The points of a file in random order, so that the first ones are a random subset.

    Raises `UnusableError` if the file has no points, or coordinates, normals or colours with wrong values or shapes.
    """
    ending = path.suffix.lower()
    read = {".ply": _ply, ".npy": _arrays, ".npz": _arrays}.get(ending, _text)
    columns = read(path)
    positions = columns["positions"].astype(numpy.float64)
    if not len(positions):
        raise UnusableError("no points")
    if not numpy.isfinite(positions).all():
        raise UnusableError("coordinates that are not finite numbers")
    order = generator.permutation(len(positions))
    normals, colours = columns.get("normals"), columns.get("colours")
    for name, values in columns.items():
        if values.shape != positions.shape:
            raise UnusableError(f"{name} of shape {list(values.shape)} for {len(positions)} points")
    if normals is not None and options.normals:
        length = numpy.linalg.norm(normals, axis=1, keepdims=True)
        if not (numpy.isfinite(length).all() and (length > 0).all()):
            raise UnusableError("normals that are zero or not finite")
        normals = (normals / length)[order]
    if colours is not None and options.colours:
        if not (numpy.isfinite(colours).all() and colours.min() >= 0 and colours.max() <= 255):
            raise UnusableError("colours that are not between 0 and 255")
        colours = colours[order]
    bounds = numpy.stack([positions.min(0), positions.max(0)])
    return Cloud(positions[order], bounds, normals, None if colours is None else colours.round().astype(numpy.uint8))


def _by_column(rows: NDArray) -> Columns:
    """Rows of x y z, or of x y z and three more numbers, which are normals if they have unit length, else colours."""
    if rows.ndim != 2 or rows.shape[1] not in (3, 6):
        raise UnusableError(f"an array of shape {list(rows.shape)}; expected [points, 3] or [points, 6]")
    if rows.dtype.kind not in "fiu":
        raise UnusableError(f"an array of type {rows.dtype}, not of numbers")
    rows = rows.astype(numpy.float64)
    if rows.shape[1] == 3:
        return {"positions": rows}
    others = rows[:, 3:]
    if numpy.allclose(numpy.linalg.norm(others, axis=1), 1, atol=0.02):
        return {"positions": rows[:, :3], "normals": others}
    return {"positions": rows[:, :3], "colours": _bytes(others)}


def _bytes(colours: NDArray) -> NDArray[numpy.float64]:
    """Colours from 0 to 255; those from 0 to 1 are scaled."""
    if colours.dtype.kind == "f" and len(colours) and colours.max() <= 1:
        return colours * 255.0
    return colours.astype(numpy.float64)


def _text(path: Path) -> Columns:
    """A text file with a point in each row; numbers are separated by spaces or commas."""
    text = path.read_text()
    delimiter = "," if "," in text else None
    if not text.strip():
        raise UnusableError("no points")
    try:
        return _by_column(numpy.loadtxt(text.splitlines(), delimiter=delimiter, comments=("#", "//"), ndmin=2))
    except ValueError as error:
        raise UnusableError(f"text that is not rows of numbers: {str(error).split(';')[0][:80]}") from None


_NAMES = {"positions": ("positions", "points"), "normals": ("normals",), "colours": ("colours", "colors")}


def _arrays(path: Path) -> Columns:
    """One array with a point in each row, or arrays named as in `_NAMES`."""
    try:
        loaded = numpy.load(path, allow_pickle=False)
        if not isinstance(loaded, numpy.lib.npyio.NpzFile):
            return _by_column(loaded)
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except ValueError as error:
        if "pickle" in str(error):
            raise UnusableError("pickled objects, which are not read because they can execute code") from None
        raise
    columns = {name: arrays[key] for name, keys in _NAMES.items() for key in keys if key in arrays}
    if "positions" not in columns:
        raise UnusableError(f"no array with the name positions or points, only {', '.join(arrays) or 'none'}")
    if "colours" in columns:
        columns["colours"] = _bytes(columns["colours"])
    return {**columns, **_by_column(columns.pop("positions"))}


def _ply(path: Path) -> Columns:
    """The vertices of a PLY file."""
    shapes = trimesh.load_scene(path, process=False).dump()
    if len(shapes) != 1:
        raise UnusableError("no points")
    (shape,) = shapes
    columns = {"positions": numpy.asarray(shape.vertices)}
    rows = shape.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    names = rows.dtype.names if rows is not None and rows.dtype.names else ()
    for name, keys in (("normals", ("nx", "ny", "nz")), ("colours", ("red", "green", "blue"))):
        if all(key in names for key in keys):
            columns[name] = numpy.stack([rows[key] for key in keys], 1).reshape(-1, 3)
    if "colours" in columns:
        columns["colours"] = _bytes(columns["colours"])
    return columns
