"""The earth mover's distance of point clouds: exact by assignment, approximate by entropic transport."""

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def earth_movers(first: Tensor, second: Tensor) -> Tensor:
    """Exact distance of clouds `[B, P, 3]` and `[B, P, 3]` of equally many points, `[B]` float64.

    min over one-to-one matchings of the mean Euclidean distance of matched points (PointFlow, Yang et al. 2019,
    section 5.1, writes the sum), by scipy's linear assignment: about P^2.4 operations, each pair of clouds by itself.
    """
    if first.shape != second.shape:
        raise ValueError(f"a matching needs equally many points; got {tuple(first.shape)} and {tuple(second.shape)}")
    costs = distances(first.double(), second.double()).cpu().numpy()
    matched = [cost[linear_sum_assignment(cost)].mean() for cost in costs]
    return torch.tensor(matched, dtype=torch.float64)


def sinkhorn(first: Tensor, second: Tensor, epsilon: float, iterations: int = 200) -> Tensor:
    """Approximate distance of clouds `[B, P, 3]` and `[B, Q, 3]` with even weights, `[B]`: never below the exact one.

    The mean distance under a plan that is found by Sinkhorn's iteration in the log domain (Cuturi 2013; Peyre & Cuturi
    2019, section 4.4) and rounded to have the right marginals (Altschuler et al. 2017, algorithm 2), so it is a plan.
    `epsilon` is the strength of the entropy as a share of the mean distance of the two clouds; it is approached from
    1 in equal factors over the first half of the iterations. The result tends to the exact distance as it goes to zero
    and iterations grow; how near it is at one epsilon differs from cloud to cloud.
    """
    if not epsilon > 0 or iterations < 2:
        raise ValueError("Sinkhorn needs an epsilon above zero and at least 2 iterations")
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
    """Euclidean distances `[B, P, Q]`, without the cancellation of a product of matrices."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def _feasible(plan: Tensor) -> Tensor:
    """The plan with too full rows and columns cut down, and what is missing spread as a product of the deficits."""
    _, rows, columns = plan.shape
    plan = plan * (1 / (rows * plan.sum(2, keepdim=True))).clamp(max=1)
    plan = plan * (1 / (columns * plan.sum(1, keepdim=True))).clamp(max=1)
    short_rows = (1 / rows - plan.sum(2, keepdim=True)).clamp(min=0)
    short_columns = (1 / columns - plan.sum(1, keepdim=True)).clamp(min=0)
    missing = short_rows.sum(1, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
    return plan + short_rows * short_columns / missing
