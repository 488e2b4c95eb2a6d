"""Writers of clouds: PLY, NPZ and GLB.

They contain points, which viewers draw as dots; `diffcore_pointcloud.output.meshes` writes surfaces.
"""

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import trimesh

from diffcore_pointcloud.formats.gltf import OURS
from diffcore_pointcloud.output.points import Array, Points, colours, extent


def write_ply(points: Points, path: Path, comments: Sequence[str] = ()) -> None:
    """Write a binary PLY file with x y z, and nx ny nz, red green blue and label if the cloud has them, exactly."""
    write_row([points], path, comments)


def write_row(samples: Iterable[Points], path: Path, comments: Sequence[str] = ()) -> None:
    """Write all clouds as one PLY file, side by side along x, for any upright axis. A single cloud is not moved.

    The samples are iterated twice, and are never in memory together. Normals, colours and labels are written if all
    clouds have them.
    """
    lengths, radii, having = [], [], [True] * len(_GROUPS)
    for points in samples:
        lengths.append(len(points))
        radii.append(extent(points).radius)
        having = [had and values is not None for had, values in zip(having, points.arrays, strict=True)]
    groups = [group for group, had in zip(_GROUPS, having, strict=True) if had]
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += [f"comment {' '.join(comment.encode('ascii', 'replace').decode().split())}" for comment in comments]
    lines += [f"element vertex {sum(lengths)}"]
    lines += [f"property {word} {name}" for names, _, word in groups for name in names]
    with path.open("wb") as file:
        file.write("\n".join([*lines, "end_header\n"]).encode())
        for points, offset in zip(samples, _offsets(radii, len(radii)), strict=True):
            moved = points.moved(offset) if offset.any() else points
            rows = numpy.empty(len(points), [(name, kind) for names, kind, _ in groups for name in names])
            known = [values for values, had in zip(moved.arrays, having, strict=True) if had]
            for (names, _, _), values in zip(groups, known, strict=True):
                assert values is not None
                for name, column in zip(names, values.reshape(len(values), -1).T, strict=True):
                    rows[name] = column
            file.write(rows.tobytes())


_GROUPS = (
    (("x", "y", "z"), "<f4", "float"),
    (("nx", "ny", "nz"), "<f4", "float"),
    (("red", "green", "blue"), "u1", "uchar"),
    (("label",), "<i4", "int"),
)
"""The properties of positions, normals, colours and parts in a PLY file: names, type in NumPy, type in the file."""


def write_npz(samples: Iterable[Points], path: Path, asked: Sequence[Mapping[str, str]] = ()) -> None:
    """Write `positions` `[B, N, 3]`, `normals`, `colours` and `label` `[B, N]` if present, and `asked_NAME` `[B]`.

    There is an array `asked_NAME` for each condition.

    The samples are iterated once for each array, and are never in memory together.
    """
    count, first = 0, None
    for points in samples:
        count, first = count + 1, points if first is None else first
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for index, name in enumerate(("positions", "normals", "colours", "label")):
            like = None if first is None else first.arrays[index]
            if like is None:
                continue
            with file.open(f"{name}.npy", "w", force_zip64=True) as array:
                descr = numpy.lib.format.dtype_to_descr(like.dtype)
                header = {"descr": descr, "fortran_order": False, "shape": (count, *like.shape)}
                numpy.lib.format.write_array_header_1_0(array, header)
                for points in samples:
                    array.write(numpy.ascontiguousarray(points.arrays[index], like.dtype).tobytes())
        for name in dict.fromkeys(name for caption in asked for name in caption):
            with file.open(f"asked_{name}.npy", "w") as array:
                texts = numpy.array([caption.get(name, "") for caption in asked])
                numpy.lib.format.write_array(array, texts, allow_pickle=False)


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
    content = scene.export(file_type="glb", tree_postprocessor=_named) if scene.geometry else empty_glb()
    path.write_bytes(content)


def _named(tree: dict[str, Any]) -> None:
    """Name the scene, so that the reader takes each node as a cloud of its own."""
    tree["scenes"][0]["name"] = OURS


def empty_glb() -> bytes:
    """A GLB file without any nodes."""
    text = b'{"asset":{"version":"2.0"},"scene":0,"scenes":[{}]}'
    text += b" " * (-len(text) % 4)
    size = (20 + len(text)).to_bytes(4, "little")
    return b"glTF\x02\x00\x00\x00" + size + len(text).to_bytes(4, "little") + b"JSON" + text


def grid_offsets(samples: Sequence[Points], columns: int) -> Array:
    """The translation of each cloud `[n, 3]` in a grid: rows along x, the next row towards -z.

    The distance of neighbours is 1.2 times the width of the widest cloud.
    """
    return _offsets([extent(points).radius for points in samples], columns)


def _offsets(radii: Sequence[float], columns: int) -> Array:
    """The translation of clouds with these radii in a grid."""
    distance = 2.4 * max(radii, default=0.0)
    row, column = numpy.divmod(numpy.arange(len(radii)), max(1, columns))
    return distance * numpy.stack([column, 0.0 * row, -row], 1)
