"""Clouds to files: PLY, NPZ and GLB.

Generated clouds have no faces: a surface would have to be made up between the points, and none of the libraries at
hand does that well. So a GLB holds points, which viewers draw as dots.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import trimesh

from diffcore_pointcloud.output.points import Array, Points, colours, extent, joined


def write_ply(points: Points, path: Path, comments: Sequence[str] = ()) -> None:
    """A binary PLY: x y z, then nx ny nz and red green blue where the cloud has them. Numbers are kept bit by bit."""
    names = (("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue"))
    kinds = (("<f4", "float"), ("<f4", "float"), ("u1", "uchar"))
    zipped = zip(names, kinds, points.arrays, strict=True)
    parts = [(group, kind, values) for group, kind, values in zipped if values is not None]
    rows = numpy.empty(len(points), [(name, kind) for group, (kind, _), _ in parts for name in group])
    for group, _, values in parts:
        for name, column in zip(group, values.T, strict=True):
            rows[name] = column
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += [f"comment {' '.join(comment.encode('ascii', 'replace').decode().split())}" for comment in comments]
    lines += [f"element vertex {len(points)}"]
    lines += [f"property {word} {name}" for group, (_, word), _ in parts for name in group]
    path.write_bytes("\n".join([*lines, "end_header\n"]).encode() + rows.tobytes())


def write_npz(samples: Sequence[Points], path: Path, asked: Sequence[Mapping[str, str]] = ()) -> None:
    """`positions` `[B, N, 3]`, `normals` and `colours` where there are any, and `asked_NAME` `[B]` text a condition."""
    kinds = zip(*(points.arrays for points in samples), strict=True)
    fields = zip(("positions", "normals", "colours"), kinds, strict=True)
    arrays: dict[str, Any] = {name: numpy.stack(values) for name, values in fields if values[0] is not None}
    names = dict.fromkeys(name for words in asked for name in words)
    arrays |= {f"asked_{name}": numpy.array([words.get(name, "") for words in asked]) for name in names}
    numpy.savez_compressed(path, **arrays)


def write_glb(samples: Sequence[Points], path: Path, columns: int, names: Sequence[str]) -> None:
    """Clouds side by side as nodes of points, each moved by a translation alone.

    glTF has no place for numbers that are not finite: such points are left out. It is for looking at: clouds without
    colours get those of `diffcore_pointcloud.output.points.RAMP`. Normals are left out, as a point that has
    one is lit by viewers from one side only.
    """
    scene = trimesh.Scene()
    for name, points, place in zip(names, samples, side_by_side(samples, columns), strict=True):
        shown = points.finite
        if len(shown):
            at = trimesh.transformations.translation_matrix(place)
            dots = trimesh.PointCloud(shown.positions, colors=colours(shown))
            scene.add_geometry(dots, node_name=name, geom_name=name, transform=at)
    path.write_bytes(scene.export(file_type="glb") if scene.geometry else _empty_glb())


def _empty_glb() -> bytes:
    text = b'{"asset":{"version":"2.0"},"scene":0,"scenes":[{}]}'
    text += b" " * (-len(text) % 4)
    size = (20 + len(text)).to_bytes(4, "little")
    return b"glTF\x02\x00\x00\x00" + size + len(text).to_bytes(4, "little") + b"JSON" + text


def beside(samples: Sequence[Points]) -> Points:
    """All clouds as one, side by side along x, whatever is up; one alone stays where it is."""
    moved = zip(samples, side_by_side(samples, len(samples)), strict=True)
    return joined([points.moved(place) if place.any() else points for points, place in moved])


def side_by_side(samples: Sequence[Points], columns: int) -> Array:
    """How far each cloud is moved `[n, 3]`: rows along x, further rows towards -z, 1.2 times the widest apart."""
    apart = 2.4 * max((extent(points).radius for points in samples), default=0.0)
    row, column = numpy.divmod(numpy.arange(len(samples)), max(1, columns))
    return apart * numpy.stack([column, 0.0 * row, -row], 1)
