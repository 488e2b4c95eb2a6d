"""Writes the surfaces through clouds with normals as meshes: GLB, OBJ, PLY, STL and pictures."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import trimesh
from scipy.spatial import cKDTree
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.plugins.output import Captions
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.geometry.poisson import surface
from diffcore_pointcloud.options import WritingOptions
from diffcore_pointcloud.output.files import empty_glb, grid_offsets
from diffcore_pointcloud.output.painting import SOLID
from diffcore_pointcloud.output.points import Points, colours, unbatched, upright, without_outliers
from diffcore_pointcloud.output.turntable import sheet
from diffcore_pointcloud.output.writer import CloudWriter, captions_of, legend, tile_side

logger = logging.getLogger(__name__)

FEW_POINTS = 4096
"""Surfaces through fewer points are coarse, which the writer says."""
BLENDED = 4
"""The number of points from whose colours the colour of a vertex is interpolated."""


class MeshWriter:
    """Writes the surface through each sample, which is a TensorDict of `positions`, `normals` and optional `colours`.

    Meshes are in the unit of the data. In GLB and pictures, the data's upright axis becomes y. The vertices of GLB, OBJ
    and PLY have the colours of the points, if these have any; STL has no colours.
    """

    endings = (".png", ".glb", ".obj", ".ply", ".stl")

    def __init__(self, codec: CloudCodec, options: WritingOptions) -> None:
        """Raises `UserError` if the clouds have no normals."""
        if not codec.facts.normals:
            raise UserError(
                "meshes are made of points with normals, which this run was trained without: train with "
                "`data.normals`, as the preset shapes-normals does"
            )
        if codec.points < FEW_POINTS:
            logger.warning(
                f"the surface through {codec.points:,} points is coarse: draw more points of each shape, such as "
                f"`size` {2 * FEW_POINTS}"
            )
        self._up, self._format, self._resolution = codec.facts.up, options.format, options.resolution
        self._points = CloudWriter(codec)

    def each(self, samples: TensorDict, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Write the surface of each sample to a file of the format of the options."""
        paths = [folder / f"{name}.{self._format}" for name in names]
        for points, path in zip(unbatched(samples), paths, strict=True):
            self._write([points], path, 1, ["shape"])
        return paths

    def together(self, samples: TensorDict, path: Path, columns: int, captions: Captions = ()) -> None:
        """Write the surfaces of all samples into one file, in rows of `columns`; a single one is not moved.

        In GLB and OBJ, each is an object of its own. `.png` is a sheet of pictures.
        """
        legends = [legend(caption) for caption in captions_of(samples, captions)]
        clouds = unbatched(samples)
        if path.suffix.lower() == ".png":
            shown = [pictured(mesh_of(upright(points, self._up), self._resolution)) for points in clouds]
            sheet(shown, columns, legends, tile_side(columns, len(shown)), balls=SOLID).save(path)
        else:
            names = [" ".join(filter(None, [f"{k}", words])) for k, words in enumerate(legends, 1)]
            self._write(clouds, path, columns, names)

    def html(self, samples: TensorDict, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """The points of the samples, as `CloudWriter` shows them."""
        return self._points.html(samples, columns, captions, trajectories)

    def summary(self, samples: TensorDict, captions: Captions = ()) -> list[str]:
        """What `CloudWriter` says of the points."""
        return self._points.summary(samples, captions)

    def _write(self, clouds: Sequence[Points], path: Path, columns: int, names: Sequence[str]) -> None:
        """Write the surfaces of clouds to a file with one of the endings of meshes."""
        kind = path.suffix.lower()
        shown = [upright(points, self._up) if kind == ".glb" else points for points in clouds]
        meshes = [mesh_of(points, self._resolution) for points in shown]
        moved = zip(meshes, grid_offsets(shown, columns if kind == ".glb" else len(shown)), strict=True)
        meshes = [mesh.apply_translation(offset) for mesh, offset in moved]
        path.write_bytes(_exported(meshes, kind.removeprefix("."), names))


def mesh_of(points: Points, resolution: int) -> trimesh.Trimesh:
    """The closed surface through a cloud with normals, in its unit, with the colours of the points at its vertices.

    Points that are not finite and outliers are left out. It has no triangles if there is no surface.
    """
    used = without_outliers(points.finite)
    assert used.normals is not None
    known = used[numpy.asarray(numpy.isfinite(used.normals).all(1))]
    if len(known) < len(points):
        logger.warning(f"a surface is made without {len(points) - len(known)} of {len(points):,} points, far from all")
    vertices, faces = surface(known.positions, known.normals, resolution)  # type: ignore[arg-type]
    has_colours = known.colours is not None or known.parts is not None
    painted = _blended(vertices, known) if has_colours and len(faces) else None
    mesh = trimesh.Trimesh(vertices, faces, vertex_colors=painted, process=False)
    if not mesh.is_watertight:
        logger.warning("a surface through points is not closed" if len(faces) else "there is no surface through points")
    return mesh


def pictured(mesh: trimesh.Trimesh) -> Points:
    """The vertices and the centres of the triangles of a mesh, with normals and colours: points evenly on its surface.

    Pictures show these points like a surface.
    """
    painted = None
    if mesh.visual.kind == "vertex":
        at_vertices = mesh.visual.vertex_colors[:, :3]
        painted = numpy.concatenate([at_vertices, at_vertices[mesh.faces].mean(1).round()]).astype(numpy.uint8)
    places = numpy.concatenate([mesh.vertices, mesh.triangles_center]).astype(numpy.float32)
    normals = numpy.concatenate([mesh.vertex_normals, mesh.face_normals]).astype(numpy.float32)
    return Points(places, normals, painted)


def _blended(vertices: numpy.ndarray, points: Points) -> numpy.ndarray:
    """The colours of vertices, uint8 `[V, 3]`: means of those of the nearest points, by inverse squared distance."""
    distances, nearest = cKDTree(points.positions).query(vertices, min(BLENDED, len(points)))
    distances, nearest = distances.reshape(len(vertices), -1), nearest.reshape(len(vertices), -1)
    weights = 1 / numpy.maximum(distances, 1e-6 * distances.max() or 1.0) ** 2
    weights /= weights.sum(1, keepdims=True)
    return (colours(points)[nearest] * weights[..., None]).sum(1).round().astype(numpy.uint8)


def _exported(meshes: Sequence[trimesh.Trimesh], kind: str, names: Sequence[str]) -> bytes:
    """A file with meshes. In GLB and OBJ each is an object with a name; in PLY and STL they are one mesh."""
    if kind in ("ply", "stl"):
        content: Any = trimesh.util.concatenate(list(meshes)).export(file_type=kind)
    else:
        scene = trimesh.Scene()
        for name, mesh in zip(names, meshes, strict=True):
            if len(mesh.faces):
                scene.add_geometry(mesh, node_name=name, geom_name=name)
        if not scene.geometry:
            return empty_glb() if kind == "glb" else b"# no surface\n"
        content = scene.export(file_type=kind, include_normals=True)
    return content.encode() if isinstance(content, str) else bytes(content)
