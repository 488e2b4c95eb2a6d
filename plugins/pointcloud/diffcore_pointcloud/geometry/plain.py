"""Geometry in torch and scipy: what `geometry.Kernels` asks for, on every machine."""

import torch
from scipy.spatial import cKDTree
from torch import Tensor

_COMPARED = 1 << 22
"""So many squared distances are held at a time. Clouds of more pairs go into a tree where they are on the CPU."""


def surface(vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Faces by inverting the cumulated area in float64; places in them by the square root of an even number."""
    a, b, c = vertices.double()[faces].unbind(1)
    upto = torch.linalg.cross(b - a, c - a).norm(dim=1).cumsum(0)
    chosen, u, v = torch.rand(3, count, dtype=torch.float64, generator=generator, device=generator.device).to(a.device)
    face = torch.searchsorted(upto, chosen * upto[-1], right=True).clamp(max=len(faces) - 1)
    u, v = u.sqrt()[:, None], v[:, None]
    points = (1 - u) * a[face] + u * (1 - v) * b[face] + u * v * c[face]
    return points.to(vertices.dtype), face


def nearest(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """All distances where they are few, else a k-d tree (CPU) or blocks of distances."""
    rows, columns = queries.shape[1], points.shape[1]
    if rows * columns > _COMPARED and queries.device.type == "cpu":
        found = [_by_tree(q, p, k) for q, p in zip(queries, points, strict=True)]
        return torch.stack(found)
    block = max(1, _COMPARED // columns)
    if rows > block:
        return torch.cat([nearest(part, points, k) for part in queries.split(block, 1)], 1)
    each = max(1, _COMPARED // (rows * columns))
    found = [_by_comparison(q, p, k) for q, p in zip(queries.split(each), points.split(each), strict=True)]
    return torch.cat(found)


def _by_tree(queries: Tensor, points: Tensor, k: int) -> Tensor:
    _, indices = cKDTree(points.numpy()).query(queries.numpy(), k=list(range(1, k + 1)))
    return torch.from_numpy(indices)


def _by_comparison(queries: Tensor, points: Tensor, k: int) -> Tensor:
    distances = torch.cdist(queries, points, compute_mode="donot_use_mm_for_euclid_dist")
    if k == 1:
        return distances.argmin(2, keepdim=True)
    return distances.topk(k, dim=2, largest=False).indices


def farthest(points: Tensor, count: int) -> Tensor:
    """One step a point: what is left of each distance is its minimum over the points chosen so far."""
    batch = torch.arange(len(points), device=points.device)
    chosen = torch.zeros(len(points), count, dtype=torch.int64, device=points.device)
    left = points.new_full(points.shape[:2], torch.inf)
    for i in range(1, count):
        last = points[batch, chosen[:, i - 1]]
        left = torch.minimum(left, (points - last[:, None]).square().sum(-1))
        chosen[:, i] = left.argmax(1)
    return chosen


def rasterise(places: Tensor, depth: Tensor, radii: Tensor, height: int, width: int) -> Tensor:
    """Each disc claims pixels of the rectangle about it; of those that claim a pixel the first in depth has it."""
    order = torch.argsort(depth, stable=True)
    places, radii = places[order], radii[order]
    end = places.new_tensor([width, height])
    first = (places - radii[:, None] - 0.5).ceil().clamp(min=0).minimum(end).long()
    sides = ((places + radii[:, None] + 0.5).floor().clamp(min=0).minimum(end).long() - first).clamp(min=0)
    areas = sides.prod(1)
    shown = torch.full((height * width,), len(order), dtype=torch.int64, device=places.device)
    for ranks in torch.arange(len(order), device=places.device).split(
        max(1, _COMPARED // int(areas.max().clamp(min=1)))
    ):
        ends = areas[ranks].cumsum(0)
        owner = ranks.repeat_interleave(areas[ranks])
        step = torch.arange(len(owner), device=places.device) - (ends - areas[ranks])[owner - ranks[0]]
        pixel = first[owner] + torch.stack([step % sides[owner, 0], step // sides[owner, 0]], 1)
        covered = (pixel + 0.5 - places[owner]).square().sum(1) < radii[owner].square()
        cells = pixel[covered, 1] * width + pixel[covered, 0]
        shown.scatter_reduce_(0, cells, owner[covered], "amin")
    return torch.cat([order, order.new_full((1,), -1)])[shown].reshape(height, width)
