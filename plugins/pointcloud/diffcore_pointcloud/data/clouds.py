"""Files of points."""

from pathlib import Path

import numpy
import trimesh
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.data.sources import Cloud
from diffcore_pointcloud.options import FileOptions

CLOUD_ENDINGS = frozenset((".ply", ".xyz", ".txt", ".npy", ".npz"))
"""Files with these endings are taken for clouds."""

Columns = dict[str, NDArray[numpy.float64]]


def read_cloud(path: Path, options: FileOptions, generator: numpy.random.Generator) -> Cloud:
    """The points of a file in random order, so that the first ones are any."""
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
            raise UnusableError("normals without a direction")
        normals = (normals / length)[order]
    if colours is not None and options.colours:
        if not (numpy.isfinite(colours).all() and colours.min() >= 0 and colours.max() <= 255):
            raise UnusableError("colours that are not from 0 to 255")
        colours = colours[order]
    bounds = numpy.stack([positions.min(0), positions.max(0)])
    return Cloud(positions[order], bounds, normals, None if colours is None else colours.round().astype(numpy.uint8))


def _by_column(rows: NDArray) -> Columns:
    """Rows of x y z, or of x y z and three more numbers: normals where they have unit length, else colours."""
    if rows.ndim != 2 or rows.shape[1] not in (3, 6):
        raise UnusableError(f"an array of shape {list(rows.shape)}; expected [points, 3] or [points, 6]")
    if rows.dtype.kind not in "fiu":
        raise UnusableError(f"an array of {rows.dtype}, not of numbers")
    rows = rows.astype(numpy.float64)
    if rows.shape[1] == 3:
        return {"positions": rows}
    further = rows[:, 3:]
    if numpy.allclose(numpy.linalg.norm(further, axis=1), 1, atol=0.02):
        return {"positions": rows[:, :3], "normals": further}
    return {"positions": rows[:, :3], "colours": _bytes(further)}


def _bytes(colours: NDArray) -> NDArray[numpy.float64]:
    """Colours as numbers to 255, from numbers to 1 or to 255."""
    if colours.dtype.kind == "f" and len(colours) and colours.max() <= 1:
        return colours * 255.0
    return colours.astype(numpy.float64)


def _text(path: Path) -> Columns:
    """Numbers in rows, apart by blanks or commas."""
    text = path.read_text()
    delimiter = "," if "," in text else None
    if not text.strip():
        raise UnusableError("no points")
    try:
        return _by_column(numpy.loadtxt(text.splitlines(), delimiter=delimiter, comments=("#", "//"), ndmin=2))
    except ValueError as error:
        raise UnusableError(f"not rows of numbers: {str(error).split(';')[0][:80]}") from None


_NAMES = {"positions": ("positions", "points"), "normals": ("normals",), "colours": ("colours", "colors")}


def _arrays(path: Path) -> Columns:
    """An array in columns; or arrays called `positions` or `points`, and perhaps `normals`, `colours` or `colors`."""
    try:
        held = numpy.load(path, allow_pickle=False)
        if not isinstance(held, numpy.lib.npyio.NpzFile):
            return _by_column(held)
        with held:
            arrays = {name: held[name] for name in held.files}
    except ValueError as error:
        if "pickle" in str(error):
            raise UnusableError("it holds pickled objects, which are not read: they can execute code") from None
        raise
    columns = {name: arrays[word] for name, words in _NAMES.items() for word in words if word in arrays}
    if "positions" not in columns:
        raise UnusableError(f"no array called positions or points, but {', '.join(arrays) or 'none'}")
    if "colours" in columns:
        columns["colours"] = _bytes(columns["colours"])
    return {**columns, **_by_column(columns.pop("positions"))}


def _ply(path: Path) -> Columns:
    """The vertices of a PLY file."""
    read = trimesh.load_scene(path, process=False).dump()
    if len(read) != 1:
        raise UnusableError("no points")
    (shape,) = read
    columns = {"positions": numpy.asarray(shape.vertices)}
    rows = shape.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    kept = rows.dtype.names if rows is not None and rows.dtype.names else ()
    for name, words in (("normals", ("nx", "ny", "nz")), ("colours", ("red", "green", "blue"))):
        if all(word in kept for word in words):
            columns[name] = numpy.stack([rows[word] for word in words], 1).reshape(-1, 3)
    if "colours" in columns:
        columns["colours"] = _bytes(columns["colours"])
    return columns
