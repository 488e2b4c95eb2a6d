"""Triangles of polygons in space, convex or not."""

import mapbox_earcut
import numpy
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.formats.content import MOST_FACES
from diffcore_pointcloud.formats.shape import Floats, Integers, require_vertices


def triangulated(positions: Floats, lengths: Integers, corners: Integers) -> tuple[Integers, Integers]:
    """Triangles `[T, 3]` of polygons, and the index of the polygon of each triangle `[T]`.

    `lengths` `[P]` is the number of corners of each polygon, and `corners` the indices of all corners in `positions`
    `[V, 3]`. Convex polygons are cut from their first corner. The others are cut by ears (`mapbox_earcut`), in the
    plane across their mean normal (Newell). Polygons of fewer than 3 corners are left out. Raises `UnusableError` if
    corners do not exist.
    """
    require_vertices(corners, len(positions))
    if int((lengths - 2).clip(0).sum()) > MOST_FACES:
        raise UnusableError(f"more than {MOST_FACES:,} triangles")
    starts = lengths.cumsum() - lengths
    triangles, owners = [numpy.zeros((0, 3), numpy.int64)], [numpy.zeros(0, numpy.int64)]
    for length in numpy.unique(lengths[lengths >= 3]).tolist():
        own = numpy.nonzero(lengths == length)[0]
        polygons = corners[starts[own, None] + numpy.arange(length)]
        order = numpy.arange(1, length - 1)
        fans = numpy.stack([numpy.zeros_like(order), order, order + 1], 1)
        chosen = numpy.broadcast_to(fans, (len(own), *fans.shape)).copy()
        if length > 3:
            places, convex = _flattened(positions[polygons])
            for row in numpy.nonzero(~convex)[0]:
                chosen[row] = _by_ears(places[row], fans)
        triangles.append(numpy.take_along_axis(polygons, chosen.reshape(len(own), -1), 1).reshape(-1, 3))
        owners.append(numpy.repeat(own, length - 2))
    owner = numpy.concatenate(owners)
    order = numpy.argsort(owner, kind="stable")
    return numpy.concatenate(triangles)[order], owner[order]


def _flattened(corners: Floats) -> tuple[Floats, NDArray[numpy.bool_]]:
    """Polygons `[P, n, 3]` in their planes, `[P, n, 2]`, anticlockwise, and whether each is convex."""
    corners = corners - corners[:, :1]
    size = numpy.abs(corners).max((1, 2), keepdims=True)
    corners = corners / numpy.where(size > 0, size, 1)
    following = numpy.roll(corners, -1, 1)
    normal = numpy.cross(corners, following).sum(1)
    length = numpy.linalg.norm(normal, axis=1, keepdims=True)
    normal = normal / numpy.where(length > 0, length, 1)
    helper = numpy.eye(3)[numpy.abs(normal).argmin(1)]
    right = numpy.cross(helper, normal)
    right /= numpy.maximum(numpy.linalg.norm(right, axis=1, keepdims=True), 1e-300)
    up = numpy.cross(normal, right)
    places = numpy.stack([(corners * right[:, None]).sum(2), (corners * up[:, None]).sum(2)], 2)
    edges = numpy.roll(places, -1, 1) - places
    after = numpy.roll(edges, -1, 1)
    turn = edges[..., 0] * after[..., 1] - edges[..., 1] * after[..., 0]
    angle = numpy.arctan2(turn, (edges * after).sum(2))
    convex = (turn >= -1e-9).all(1) & (numpy.abs(angle.sum(1) - 2 * numpy.pi) < 1)
    return places, convex | ~(length[:, 0] > 0) | ~numpy.isfinite(places).all((1, 2))


def _by_ears(places: Floats, fans: Integers) -> Integers:
    """The triangles `[n - 2, 3]` of one polygon `[n, 2]`; the fan where its corners do not allow as many."""
    found = mapbox_earcut.triangulate_float64(places, numpy.array([len(places)], numpy.uint32)).reshape(-1, 3)
    if not 0 < len(found) <= len(fans):
        return fans
    triangles = numpy.zeros_like(fans)  # fewer than n - 2 where corners lie on a line: the others have no area
    first, second, third = (places[found[:, k]] for k in range(3))
    area = (second[:, 0] - first[:, 0]) * (third[:, 1] - first[:, 1]) - (third[:, 0] - first[:, 0]) * (
        second[:, 1] - first[:, 1]
    )
    triangles[: len(found)] = numpy.where(area[:, None] < 0, found[:, ::-1], found)
    return triangles
