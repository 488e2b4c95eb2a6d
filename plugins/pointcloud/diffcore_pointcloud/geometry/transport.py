"""The earth mover's distance of point clouds: exact by assignment, or approximate by entropic transport."""

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def earth_movers(first: Tensor, second: Tensor) -> Tensor:
    """The exact distances `[B]`, float64, of clouds `[B, P, 3]` and `[B, P, 3]` with the same number of points.

    The distance is the minimum over one-to-one matchings of the mean Euclidean distance of matched points (PointFlow,
    Yang et al. 2019, section 5.1, has the sum in place of the mean). scipy's linear assignment finds it in about P^2.4
    operations, one pair of clouds at a time. Raises `ValueError` if the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"both clouds need equally many points; got {tuple(first.shape)} and {tuple(second.shape)}")
    costs = distances(first.double(), second.double()).cpu().numpy()
    matched = [cost[linear_sum_assignment(cost)].mean() for cost in costs]
    return torch.tensor(matched, dtype=torch.float64)


def sinkhorn(first: Tensor, second: Tensor, epsilon: float, iterations: int = 200) -> Tensor:
    """Approximate distances `[B]` of clouds `[B, P, 3]` and `[B, Q, 3]` with uniform weights; never too small.

    The distance is the mean Euclidean distance under a transport plan. The plan is found by Sinkhorn's iteration in the
    log domain (Cuturi 2013; Peyre & Cuturi 2019, section 4.4), and rounded so that its marginals are exact (Altschuler
    et al. 2017, algorithm 2). `epsilon` is the strength of the entropy in units of the mean distance of the two clouds.
    The iteration starts at 1 and decreases geometrically to `epsilon` over the first half of the iterations. The result
    converges to the exact distance as `epsilon` goes to zero and `iterations` to infinity; the error at a given
    `epsilon` depends on the clouds. Raises `ValueError` if `epsilon` is not positive, or for fewer than 2 iterations.
    """
    if not epsilon > 0 or iterations < 2:
        raise ValueError("`epsilon` must be positive and `iterations` at least 2")
    cost = distances(first, second)
    scaled = cost / cost.mean((1, 2), keepdim=True).clamp(min=torch.finfo(cost.dtype).tiny)
    rows, columns = cost.shape[1:]
    f, g = torch.zeros_like(cost[:, :, :1]), torch.zeros_like(cost[:, :1])
    strength = epsilon
    for i in range(iterations):
        strength = math.exp(math.log(epsilon) * min(1.0, 2 * (i + 1) / iterations))
        f = -strength * (((g - scaled) / strength).logsumexp(2, keepdim=True) - math.log(columns))
        g = -strength * (((f - scaled) / strength).logsumexp(1, keepdim=True) - math.log(rows))
    plan = ((f + g - scaled) / strength).exp() / (rows * columns)
    return (_feasible(plan) * cost).sum((1, 2))


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distances `[B, P, Q]`, computed from differences to avoid the cancellation of a matrix product."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def _feasible(plan: Tensor) -> Tensor:
    """Scale down rows and columns with too large sums, then add the outer product of what is missing in each."""
    _, rows, columns = plan.shape
    plan = plan * (1 / (rows * plan.sum(2, keepdim=True))).clamp(max=1)
    plan = plan * (1 / (columns * plan.sum(1, keepdim=True))).clamp(max=1)
    short_rows = (1 / rows - plan.sum(2, keepdim=True)).clamp(min=0)
    short_columns = (1 / columns - plan.sum(1, keepdim=True)).clamp(min=0)
    missing = short_rows.sum(1, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
    return plan + short_rows * short_columns / missing
