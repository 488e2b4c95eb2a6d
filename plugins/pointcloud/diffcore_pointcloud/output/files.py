"""Writers of clouds: PLY, NPZ and GLB.

Generated clouds have no faces, and none of the available libraries reconstructs surfaces well. So a GLB file contains
points, which viewers draw as dots.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import trimesh

from diffcore_pointcloud.formats.gltf import OURS
from diffcore_pointcloud.output.points import Array, Points, colours, extent, joined


def write_ply(points: Points, path: Path, comments: Sequence[str] = ()) -> None:
    """Write a binary PLY file with x y z, and nx ny nz and red green blue if the cloud has them; values are exact."""
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
    """Write `positions` `[B, N, 3]`, `normals` and `colours` if present, and for each condition `asked_NAME` `[B]`."""
    kinds = zip(*(points.arrays for points in samples), strict=True)
    fields = zip(("positions", "normals", "colours"), kinds, strict=True)
    arrays: dict[str, Any] = {name: numpy.stack(values) for name, values in fields if values[0] is not None}
    names = dict.fromkeys(name for caption in asked for name in caption)
    arrays |= {f"asked_{name}": numpy.array([caption.get(name, "") for caption in asked]) for name in names}
    numpy.savez_compressed(path, **arrays)


def write_glb(samples: Sequence[Points], path: Path, columns: int, names: Sequence[str]) -> None:
    """Write clouds side by side, each as a node of points with a translation.

    The file is meant for viewing. Clouds without colours get those of `diffcore_pointcloud.output.points.RAMP`. Points
    that are not finite are left out, since glTF does not allow them. Normals are left out too, because viewers light
    points that have a normal from one side only.
    """
    scene = trimesh.Scene()
    for name, points, offset in zip(names, samples, grid_offsets(samples, columns), strict=True):
        shown = points.finite
        if len(shown):
            transform = trimesh.transformations.translation_matrix(offset)
            dots = trimesh.PointCloud(shown.positions, colors=colours(shown))
            scene.add_geometry(dots, node_name=name, geom_name=name, transform=transform)
    content = scene.export(file_type="glb", tree_postprocessor=_named) if scene.geometry else _empty_glb()
    path.write_bytes(content)


def _named(tree: dict[str, Any]) -> None:
    """Name the scene, so that the reader takes each node as a cloud of its own."""
    tree["scenes"][0]["name"] = OURS


def _empty_glb() -> bytes:
    text = b'{"asset":{"version":"2.0"},"scene":0,"scenes":[{}]}'
    text += b" " * (-len(text) % 4)
    size = (20 + len(text)).to_bytes(4, "little")
    return b"glTF\x02\x00\x00\x00" + size + len(text).to_bytes(4, "little") + b"JSON" + text


def in_a_row(samples: Sequence[Points]) -> Points:
    """All clouds as one cloud, side by side along x, for any upright axis. A single cloud is not moved."""
    moved = zip(samples, grid_offsets(samples, len(samples)), strict=True)
    return joined([points.moved(offset) if offset.any() else points for points, offset in moved])


def grid_offsets(samples: Sequence[Points], columns: int) -> Array:
    """The translation of each cloud `[n, 3]` in a grid: rows along x, the next row towards -z.

    The distance of neighbours is 1.2 times the width of the widest cloud.
    """
    distance = 2.4 * max((extent(points).radius for points in samples), default=0.0)
    row, column = numpy.divmod(numpy.arange(len(samples)), max(1, columns))
    return distance * numpy.stack([column, 0.0 * row, -row], 1)
