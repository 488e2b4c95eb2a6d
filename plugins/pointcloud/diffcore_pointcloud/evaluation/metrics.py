"""Metrics that compare two sets of clouds, computed from the matrix of distances between all clouds.

They are those of PointFlow (Yang et al. 2019, section 5.1). They must be computed on whole sets, not averaged over
batches: the nearest of few clouds is farther away than the nearest of all.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffcore_pointcloud.geometry.transport import earth_movers

Distance = Callable[[Tensor, Tensor], Tensor]
"""A function of a cloud `[P, 3]` and others `[m, Q, 3]` that returns their distances `[m]`."""

_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 26}
"""The number of squared distances that are computed at a time. On a CPU they should fit into its cache."""


@torch.no_grad()
def chamfer(cloud: Tensor, others: Tensor) -> Tensor:
    """Chamfer distances `[m]` between a cloud `[P, 3]` and others `[m, Q, 3]`, computed by matrix products.

    mean_p min_q |p - q|^2 + mean_q min_p |p - q|^2, as in `Geometry.chamfer`, which is slower but accurate. Here
    |p - q|^2 is the product of (p, |p|^2, 1) and (-2 q, 1, |q|^2). Its rounding error is about 1e-7 (|p|^2 + |q|^2) in
    float32, so clouds should be near the origin.
    """
    rows = torch.cat([cloud, cloud.square().sum(1, keepdim=True), torch.ones_like(cloud[:, :1])], 1)
    columns = torch.cat([-2 * others, torch.ones_like(others[..., :1]), others.square().sum(2, keepdim=True)], 2)
    block = min(len(others), max(1, _BLOCK.get(cloud.device.type, 1 << 24) // (len(cloud) * others.shape[1])))
    # Allocating memory for each block would take longer than the computation.
    buffer = cloud.new_empty(block, len(cloud), others.shape[1])
    distances = []
    for part in columns.transpose(1, 2).contiguous().split(block):
        squared = torch.bmm(rows.expand(len(part), -1, -1), part, out=buffer[: len(part)])
        distances.append(squared.amin(2).clamp(min=0).mean(1) + squared.amin(1).clamp(min=0).mean(1))
    return torch.cat(distances)


def earth_mover(cloud: Tensor, others: Tensor) -> Tensor:
    """Exact earth mover's distances `[m]` between a cloud `[P, 3]` and others `[m, P, 3]`; see `earth_movers`."""
    return earth_movers(cloud.expand_as(others), others).to(cloud.dtype)


def pairwise(first: Tensor, second: Tensor | None = None, distance: Distance = chamfer) -> Tensor:
    """Distances `[n, m]` between all clouds of `first` `[n, P, 3]` and all of `second` `[m, Q, 3]`.

    Without `second`, the distances among the clouds of `first`: each pair is computed once, and the diagonal is 0. All
    clouds are translated so that the mean of all points is zero, which `chamfer` needs for accuracy; `distance` must be
    invariant to translations.
    """
    if second is None:
        first = first - first.mean((0, 1))
        matrix = first.new_zeros(len(first), len(first))
        for row in range(len(first) - 1):
            matrix[row, row + 1 :] = distance(first[row], first[row + 1 :])
        return matrix + matrix.T
    mean = torch.cat([first.flatten(0, 1), second.flatten(0, 1)]).mean(0)
    first, second = first - mean, second - mean
    return torch.stack([distance(cloud, second) for cloud in first])


def mmd(distances: Tensor) -> float:
    """Minimum matching distance: the mean over references of the distance to the nearest sample.

    `distances` are `[samples, references]`. It is low if every reference has a similar sample, even if other samples
    are bad.
    """
    return distances.amin(0).double().mean().item()


def coverage(distances: Tensor) -> float:
    """The fraction of references that are nearest to at least one sample; `distances` are `[samples, references]`.

    The best value is 1; two sets from the same distribution have a much smaller one. A sample covers one reference, the
    first of equally near ones.
    """
    return len(distances.argmin(1).unique()) / distances.shape[1]


def one_nna(among_samples: Tensor, across: Tensor, among_references: Tensor) -> float:
    """Leave-one-out accuracy of a 1-nearest-neighbour classifier that decides to which of two sets a cloud belongs.

    The best value is 0.5: the sets cannot be distinguished (Lopez-Paz & Oquab 2017). It is 1 if they are far apart, and
    near 0 if each cloud has a copy in the other set. `across` is `[samples, references]`; the other two matrices are
    square, and their diagonals are ignored. If several clouds are equally near, the fraction of them in the same set
    counts. Raises `ValueError` if the sets have different sizes, since the larger one would be favoured.
    """
    if across.shape[0] != across.shape[1]:
        raise ValueError(f"1-NNA needs sets of one size; there are {across.shape[0]} and {across.shape[1]}")
    correct = torch.cat([_own_fraction(among_samples, across), _own_fraction(among_references, across.T)])
    return correct.mean().item()


def _own_fraction(own: Tensor, other: Tensor) -> Tensor:
    """For each row, the fraction of the nearest clouds that are in its own set, `[n]`."""
    diagonal = torch.eye(len(own), dtype=torch.bool, device=own.device)
    own = own.masked_fill(diagonal, torch.inf)
    least = torch.minimum(own.amin(1), other.amin(1))[:, None]
    in_own, in_other = (own == least).sum(1).double(), (other == least).sum(1).double()
    return in_own / (in_own + in_other)
