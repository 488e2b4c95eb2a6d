"""Which column of a table of points is what: by name, by the user's option, or only the first three."""

import re
from collections.abc import Mapping, Sequence

import numpy
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.formats.shape import Floats, Shape

MOST_UNNAMED = 16
"""The largest number of columns without names whose first three are taken as coordinates."""

_SPLAT = ("f_dc_0", "f_dc_1", "f_dc_2")
_BAND_0 = 0.28209479177387814  # 1 / (2 sqrt(pi)), the constant of spherical harmonics

_AXES = ("x", "y", "z")
_GROUPS: dict[str, list[tuple[str, ...]]] = {
    "positions": [(axis, f"p{axis}", f"pos{axis}", f"position{axis}", f"point{axis}", f"coord{axis}", f"{axis}coord")
                  for axis in _AXES],
    "normals": [(f"n{axis}", f"normal{axis}", f"normals{axis}", f"nrm{axis}") for axis in _AXES],
    "colours": [(name, name[0], f"diffuse{name}", f"vertex{name}", f"{name[0]}f") for name in ("red", "green", "blue")],
}  # fmt: skip
"""Names of the columns of each group, without capitals, underscores, units and quotes."""
LABELS = ("label", "labels", "scalarlabel", "part", "parts", "partid", "segmentation", "seg")
"""Names of the column of labels of parts. CloudCompare writes `scalar_Label`."""


def plain(name: str) -> str:
    """The name of a column without capitals, underscores and other signs."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def named(columns: Mapping[str, NDArray]) -> Shape:
    """The shape from arrays `[n]` of numbers by name of column.

    Columns are recognised by the names that programs use: x, y, z; nx, normal_x; r, red, diffuse_red; label; the colour
    of Gaussian splats, f_dc_0. Other columns are ignored. Raises `UnusableError` if there are no coordinates.
    """
    by_name: dict[str, NDArray] = {}
    for name, values in columns.items():
        by_name.setdefault(plain(name), values)
    found = {}
    for group, axes in _GROUPS.items():
        chosen = [next((by_name[name] for name in names if name in by_name), None) for names in axes]
        if all(values is not None for values in chosen):
            found[group] = numpy.stack(chosen, 1)  # type: ignore[arg-type]
    if "positions" not in found:
        raise UnusableError(f"no columns x, y and z, only {', '.join(map(str, list(columns)[:12])) or 'none'}")
    splat = [by_name.get(plain(name)) for name in _SPLAT]
    colours = bytes_of(found["colours"]) if "colours" in found else None
    if colours is None and all(values is not None for values in splat):
        colours = 255 * (0.5 + _BAND_0 * numpy.stack(splat, 1).astype(numpy.float64)).clip(0, 1)  # type: ignore[arg-type]
    normals = found["normals"].astype(numpy.float64) if "normals" in found else None
    labels = next((by_name[name].astype(numpy.float64) for name in LABELS if name in by_name), None)
    return Shape(found["positions"].astype(numpy.float64), normals, colours, labels=labels)


def unnamed(rows: NDArray, names: Sequence[str], ending: str) -> Shape:
    """The shape from rows of numbers `[n, k]`, whose columns are called `names`, the user's option.

    Without `names`, the first three columns are coordinates. Others are ignored, because rows of six numbers may be
    normals as well as colours; only rows of seven in `.pts` are known: intensity and colours follow. Raises
    `UnusableError` for other shapes and other types.
    """
    if rows.ndim != 2 or not rows.shape[1] >= 3:
        raise UnusableError(f"an array of shape {list(rows.shape)}; expected [points, 3] or more columns")
    if rows.dtype.kind not in "fiu":
        raise UnusableError(f"an array of type {rows.dtype}, not of numbers")
    width = rows.shape[1]
    if names:
        if len(names) != width:
            raise UnusableError(f"{width} columns, but `data.columns` names {len(names)}: {' '.join(names)}")
        return named(dict(zip(names, rows.T, strict=True)))
    if ending == ".pts" and width == 7:
        return named(dict(zip(("x", "y", "z", "intensity", "red", "green", "blue"), rows.T, strict=True)))
    if width > MOST_UNNAMED:
        raise UnusableError(f"{width} columns without names; name them with `data.columns`")
    note = f"{width} columns without names: the first three are x y z, the others are not used" if width > 3 else ""
    return Shape(rows[:, :3].astype(numpy.float64), note=note)


def bytes_of(colours: NDArray) -> Floats:
    """Colours from 0 to 255. Fractions from 0 to 1 and numbers of 16 bits are scaled."""
    values = colours.astype(numpy.float64)
    if not len(values):
        return values
    largest = numpy.nanmax(values) if not numpy.isnan(values).all() else 0
    if colours.dtype.kind == "f" and largest <= 1:
        return values * 255
    if colours.dtype.itemsize == 2 and colours.dtype.kind == "u" and largest > 255:
        return values / 257
    return values
