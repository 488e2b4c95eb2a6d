"""The protocol `kernels.Kernels` implemented with torch and scipy, which works on every machine."""

import torch
from scipy.spatial import cKDTree
from torch import Tensor

_MAX_PAIRS = 1 << 22
"""The largest number of pairs of points whose distances are in memory at a time. For more, CPUs use a k-d tree."""


def surface(vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws faces by inverting the cumulative area in float64, and points in them by the formula of Osada et al."""
    a, b, c = vertices.double()[faces].unbind(1)
    cumulative = torch.linalg.cross(b - a, c - a).norm(dim=1).cumsum(0)
    chosen, u, v = torch.rand(3, count, dtype=torch.float64, generator=generator, device=generator.device).to(a.device)
    face = torch.searchsorted(cumulative, chosen * cumulative[-1], right=True).clamp(max=len(faces) - 1)
    u, v = u.sqrt()[:, None], v[:, None]
    points = (1 - u) * a[face] + u * (1 - v) * b[face] + u * v * c[face]
    return points.to(vertices.dtype), face


def nearest(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """Computes all distances if they are few, else uses a k-d tree (CPU) or blocks of distances (GPU)."""
    rows, columns = queries.shape[1], points.shape[1]
    if rows * columns > _MAX_PAIRS and queries.device.type == "cpu":
        found = [_by_tree(q, p, k) for q, p in zip(queries, points, strict=True)]
        return torch.stack(found)
    block = max(1, _MAX_PAIRS // columns)
    if rows > block:
        return torch.cat([nearest(part, points, k) for part in queries.split(block, 1)], 1)
    clouds = max(1, _MAX_PAIRS // (rows * columns))
    found = [_by_distances(q, p, k) for q, p in zip(queries.split(clouds), points.split(clouds), strict=True)]
    return torch.cat(found)


def _by_tree(queries: Tensor, points: Tensor, k: int) -> Tensor:
    _, indices = cKDTree(points.numpy()).query(queries.numpy(), k=list(range(1, k + 1)))
    return torch.from_numpy(indices)


def _by_distances(queries: Tensor, points: Tensor, k: int) -> Tensor:
    distances = torch.cdist(queries, points, compute_mode="donot_use_mm_for_euclid_dist")
    if k == 1:
        return distances.argmin(2, keepdim=True)
    return distances.topk(k, dim=2, largest=False).indices


def farthest(points: Tensor, count: int) -> Tensor:
    """Adds one point in each step: `squared` is the squared distance of each point to the nearest one chosen so far."""
    batch = torch.arange(len(points), device=points.device)
    chosen = torch.zeros(len(points), count, dtype=torch.int64, device=points.device)
    squared = points.new_full(points.shape[:2], torch.inf)
    for i in range(1, count):
        last = points[batch, chosen[:, i - 1]]
        squared = torch.minimum(squared, (points - last[:, None]).square().sum(-1))
        chosen[:, i] = squared.argmax(1)
    return chosen


def rasterise(centres: Tensor, depth: Tensor, radii: Tensor, height: int, width: int) -> Tensor:
    """Lists the pixels in the bounding rectangle of each disc; a pixel shows the first disc in depth that covers it."""
    order = torch.argsort(depth, stable=True)
    centres, radii = centres[order], radii[order]
    end = centres.new_tensor([width, height])
    first = (centres - radii[:, None] - 0.5).ceil().clamp(min=0).minimum(end).long()
    sides = ((centres + radii[:, None] + 0.5).floor().clamp(min=0).minimum(end).long() - first).clamp(min=0)
    areas = sides.prod(1)
    shown = torch.full((height * width,), len(order), dtype=torch.int64, device=centres.device)
    for ranks in torch.arange(len(order), device=centres.device).split(
        max(1, _MAX_PAIRS // int(areas.max().clamp(min=1)))
    ):
        ends = areas[ranks].cumsum(0)
        owner = ranks.repeat_interleave(areas[ranks])
        step = torch.arange(len(owner), device=centres.device) - (ends - areas[ranks])[owner - ranks[0]]
        pixel = first[owner] + torch.stack([step % sides[owner, 0], step // sides[owner, 0]], 1)
        covered = (pixel + 0.5 - centres[owner]).square().sum(1) < radii[owner].square()
        cells = pixel[covered, 1] * width + pixel[covered, 0]
        shown.scatter_reduce_(0, cells, owner[covered], "amin")
    return torch.cat([order, order.new_full((1,), -1)])[shown].reshape(height, width)
