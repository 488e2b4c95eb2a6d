"""Clouds in files: PLY, NPZ, XYZ and GLB, and what can be read.

Generated clouds have no faces: a surface would have to be made up between the points, and none of the libraries at
hand does that well. So a GLB holds points, which viewers draw as dots.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import trimesh

from diffcore.errors import UserError
from diffcore_pointcloud.clouds import Array, Cloud, colours, extent, joined

MESHES = (".obj", ".off", ".stl", ".glb", ".ply")
"""Endings of files that may have faces."""
POINTS = (".ply", ".xyz", ".npy", ".npz")
"""Endings of files that may hold points alone."""
READABLE = tuple(dict.fromkeys(POINTS + MESHES))
"""All endings that `read` knows."""


# Writing


def write_ply(cloud: Cloud, path: Path, comments: Sequence[str] = ()) -> None:
    """A binary PLY: x y z, then nx ny nz and red green blue where the cloud has them. Numbers are kept bit by bit."""
    names = (("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue"))
    kinds = (("<f4", "float"), ("<f4", "float"), ("u1", "uchar"))
    parts = [part for part in zip(names, kinds, cloud.arrays, strict=True) if part[2] is not None]
    rows = numpy.empty(len(cloud), [(name, kind) for group, (kind, _), _ in parts for name in group])
    for group, _, values in parts:
        for name, column in zip(group, values.T, strict=True):
            rows[name] = column
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += [f"comment {' '.join(comment.encode('ascii', 'replace').decode().split())}" for comment in comments]
    lines += [f"element vertex {len(cloud)}"]
    lines += [f"property {word} {name}" for group, (_, word), _ in parts for name in group]
    path.write_bytes("\n".join([*lines, "end_header\n"]).encode() + rows.tobytes())


def write_npz(cloud_list: Sequence[Cloud], path: Path, asked: Sequence[Mapping[str, str]] = ()) -> None:
    """`positions` `[B, N, 3]`, `normals` and `colours` where there are any, and `asked_NAME` `[B]` text a condition."""
    fields = dict(zip(("positions", "normals", "colours"), zip(*(c.arrays for c in cloud_list), strict=True), strict=True))
    arrays = {name: numpy.stack(values) for name, values in fields.items() if values[0] is not None}
    names = dict.fromkeys(name for words in asked for name in words)
    arrays |= {f"asked_{name}": numpy.array([words.get(name, "") for words in asked]) for name in names}
    numpy.savez_compressed(path, **arrays)


def write_glb(cloud_list: Sequence[Cloud], path: Path, columns: int, names: Sequence[str]) -> None:
    """Clouds side by side as nodes of points, each moved by a translation alone.

    glTF has no place for numbers that are not finite: such points are left out. It is for looking at: clouds without
    colours get those of `diffcore_pointcloud.clouds.RAMP`. Normals are left out, as a point that has one is lit by
    viewers from one side only.
    """
    scene = trimesh.Scene()
    for name, cloud, place in zip(names, cloud_list, side_by_side(cloud_list, columns), strict=True):
        shown = cloud.finite
        if len(shown):
            at = trimesh.transformations.translation_matrix(place)
            points = trimesh.PointCloud(shown.positions, colors=colours(shown))
            scene.add_geometry(points, node_name=name, geom_name=name, transform=at)
    path.write_bytes(scene.export(file_type="glb") if scene.geometry else _empty_glb())


def _empty_glb() -> bytes:
    text = b'{"asset":{"version":"2.0"},"scene":0,"scenes":[{}]}'
    text += b" " * (-len(text) % 4)
    size = (20 + len(text)).to_bytes(4, "little")
    return b"glTF\x02\x00\x00\x00" + size + len(text).to_bytes(4, "little") + b"JSON" + text


def beside(cloud_list: Sequence[Cloud], columns: int) -> Cloud:
    """All clouds as one, side by side; one alone stays where it is."""
    places = side_by_side(cloud_list, columns)
    return joined([cloud.moved(place) if place.any() else cloud for cloud, place in zip(cloud_list, places, strict=True)])


def side_by_side(cloud_list: Sequence[Cloud], columns: int) -> Array:
    """How far each cloud is moved `[n, 3]`: rows along x, further rows towards -z, 1.2 times the widest apart."""
    apart = 2.4 * max((extent(cloud).radius for cloud in cloud_list), default=0.0)
    steps = numpy.arange(len(cloud_list))
    columns = max(1, columns)
    return apart * numpy.stack([steps % columns, numpy.zeros(len(steps)), -(steps // columns)], 1).astype(float)


# Reading


def read(path: Path, samples: int, seed: int = 0) -> Cloud:
    """The points of a file; of a mesh, `samples` of them drawn evenly over its surface, the same for a seed.

    PLY, XYZ (3 columns, or more that are left out), NPY `[n, 3]`, NPZ with `positions` `[n, 3]` or one array of that
    shape, OBJ, OFF, STL and GLB. Raises `UserError` where there is no such file, it cannot be read, or has no points,
    fewer than 3 coordinates or some that are not finite.
    """
    ending = path.suffix.lower()
    if ending not in READABLE:
        raise UserError(f"{path}: point clouds are read from {', '.join(READABLE)}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        match ending:
            case ".xyz":
                text = path.read_text(encoding="utf-8").replace(",", " ")
                cloud = _columns(path, numpy.loadtxt(text.splitlines(), ndmin=2) if text.strip() else numpy.zeros(0))
            case ".npy":
                cloud = _columns(path, numpy.load(path))
            case ".npz":
                cloud = _arrays(path)
            case _:
                cloud = _geometry(path, samples, seed)
    except UserError:
        raise
    except Exception as error:  # parsers of files fail in many ways
        reason = "" if "pickle" in str(error) else " ".join(str(error).split())[:120]  # what is no array is taken for one
        raise UserError(f"{path} cannot be read as {ending[1:].upper()}{reason and ': ' + reason}") from None
    if not len(cloud):
        raise UserError(f"{path} holds no points")
    if bad := int((~numpy.isfinite(cloud.positions)).any(1).sum()):
        raise UserError(f"{path}: {bad} of {len(cloud)} points have coordinates that are not finite")
    return cloud


def _columns(path: Path, values: Array) -> Cloud:
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.size == 0:
        return Cloud(numpy.zeros((0, 3), numpy.float32))
    if values.ndim != 2 or values.shape[1] < 3 or values.dtype.kind not in "fiu":
        shape = "x".join(map(str, values.shape))
        raise UserError(f"{path} holds numbers in {shape}; a cloud is n x 3, a row a point")
    return Cloud(values[:, :3].astype(numpy.float32))


def _arrays(path: Path) -> Cloud:
    with numpy.load(path) as file:  # no pickles, by default
        found = {name: file[name] for name in file.files}
    if "positions" not in found and len(found) != 1:
        raise UserError(f"{path} has no array named positions, but {', '.join(found) or 'none'}")
    points = found.get("positions", next(iter(found.values())))
    cloud = _columns(path, points)
    others = {name: found[name].reshape(-1, 3) for name in ("normals", "colours") if name in found}
    if any(len(values) != len(cloud) for values in others.values()):
        raise UserError(f"{path}: normals and colours are not as many as positions")
    return Cloud(cloud.positions, _floats(others.get("normals")), _bytes(others.get("colours")))


def _geometry(path: Path, samples: int, seed: int) -> Cloud:
    """What trimesh finds: faces are sampled, else the vertices are the points."""
    scene = trimesh.load_scene(path, process=False)
    parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh | trimesh.PointCloud)]
    faces = [part for part in parts if len(getattr(part, "faces", ()))]
    if faces:
        mesh = trimesh.util.concatenate(faces)
        if not mesh.area > 0:
            raise UserError(f"{path}: its faces have no area")
        points, which = trimesh.sample.sample_surface(mesh, samples, seed=seed)
        return Cloud(numpy.asarray(points, numpy.float32), numpy.asarray(mesh.face_normals[which], numpy.float32))
    fields = [_vertices(part) for part in parts if len(part.vertices)]
    return joined(fields) if fields else Cloud(numpy.zeros((0, 3), numpy.float32))


def _vertices(part: Any) -> Cloud:
    """The points of a geometry; PLY's normals are in the file's own columns, which trimesh keeps aside."""
    positions = numpy.asarray(part.vertices, numpy.float32)
    columns = part.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    names = ("nx", "ny", "nz")
    normals = None
    if columns is not None and set(names) <= set(getattr(columns, "dtype", numpy.dtype([])).names or columns):
        normals = numpy.stack([numpy.asarray(columns[name], numpy.float32).ravel() for name in names], 1)
    coloured = isinstance(part, trimesh.PointCloud) and part.visual.kind == "vertex"
    return Cloud(positions, normals, _bytes(numpy.asarray(part.colors)[:, :3]) if coloured else None)


def _floats(values: Array | None) -> Array | None:
    return None if values is None else values.astype(numpy.float32)


def _bytes(values: Array | None) -> Array | None:
    return None if values is None else values.astype(numpy.uint8)
