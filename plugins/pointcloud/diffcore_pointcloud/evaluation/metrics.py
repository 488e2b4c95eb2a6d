"""How near a set of clouds is to another: metrics of whole sets, from matrices of distances between all their clouds.

They are those of PointFlow (Yang et al. 2019, section 5.1). All are of whole sets: their means over batches would be
other numbers, as the nearest of a few is farther than the nearest of all.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffcore_pointcloud.geometry.transport import earth_movers

Distance = Callable[[Tensor, Tensor], Tensor]
"""From a cloud `[P, 3]` and others `[m, Q, 3]` to their distances `[m]`."""

_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 26}
"""So many squared distances are made at a time: on a CPU they should stay in its cache."""


@torch.no_grad()
def chamfer(cloud: Tensor, others: Tensor) -> Tensor:
    """Chamfer distances `[m]` of a cloud `[P, 3]` from others `[m, Q, 3]`, by products of matrices.

    mean_p min_q |p - q|^2 + mean_q min_p |p - q|^2, as `Geometry.chamfer`, which is slower and exact. Here |p - q|^2 is
    one product, of (p, |p|^2, 1) and (-2 q, 1, |q|^2); its rounding error is about 1e-7 (|p|^2 + |q|^2) in float32, so
    clouds should be near the origin.
    """
    rows = torch.cat([cloud, cloud.square().sum(1, keepdim=True), torch.ones_like(cloud[:, :1])], 1)
    columns = torch.cat([-2 * others, torch.ones_like(others[..., :1]), others.square().sum(2, keepdim=True)], 2)
    block = min(len(others), max(1, _BLOCK.get(cloud.device.type, 1 << 24) // (len(cloud) * others.shape[1])))
    room = cloud.new_empty(
        block, len(cloud), others.shape[1]
    )  # new memory for each block would cost more than the rest
    found = []
    for part in columns.transpose(1, 2).contiguous().split(block):
        squared = torch.bmm(rows.expand(len(part), -1, -1), part, out=room[: len(part)])
        found.append(squared.amin(2).clamp(min=0).mean(1) + squared.amin(1).clamp(min=0).mean(1))
    return torch.cat(found)


def earth_mover(cloud: Tensor, others: Tensor) -> Tensor:
    """Exact earth mover's distances `[m]` of a cloud `[P, 3]` from others `[m, P, 3]`; see `earth_movers`."""
    return earth_movers(cloud.expand_as(others), others).to(cloud.dtype)


def pairwise(first: Tensor, second: Tensor | None = None, distance: Distance = chamfer) -> Tensor:
    """Distances `[n, m]` of all clouds `[n, P, 3]` from all of `[m, Q, 3]`.

    Without `second`, those of the clouds from each other: each pair is compared once, and the diagonal is 0. Clouds are
    moved so that the mean of all points is the origin, for the sake of `chamfer`; distances must not depend on that.
    """
    if second is None:
        first = first - first.mean((0, 1))
        matrix = first.new_zeros(len(first), len(first))
        for row in range(len(first) - 1):
            matrix[row, row + 1 :] = distance(first[row], first[row + 1 :])
        return matrix + matrix.T
    middle = torch.cat([first.flatten(0, 1), second.flatten(0, 1)]).mean(0)
    first, second = first - middle, second - middle
    return torch.stack([distance(cloud, second) for cloud in first])


def mmd(distances: Tensor) -> float:
    """Minimum matching distance: the mean over references of the distance of the sample nearest to each.

    `distances` `[samples, references]`. Low where every reference has a sample like it, whatever else there is.
    """
    return distances.amin(0).double().mean().item()


def coverage(distances: Tensor) -> float:
    """The share of references that are the nearest reference of some sample; `distances` `[samples, references]`.

    1 at best; of two samplings of one distribution well below. A sample covers one reference, of equally near ones the
    first.
    """
    return len(distances.argmin(1).unique()) / distances.shape[1]


def one_nna(among_samples: Tensor, across: Tensor, among_references: Tensor) -> float:
    """How often the nearest other cloud tells which of two sets a cloud is of: leave-one-out, 1-nearest neighbour.

    The best is 0.5: the sets cannot be told apart (Lopez-Paz & Oquab 2017). 1 where they are apart, and near 0 where
    each cloud has its copy in the other set. `across` `[samples, references]`, the others square, with anything on the
    diagonal. Of equally near ones, each counts its share. The sets must be equally large, or the larger would win.
    """
    if across.shape[0] != across.shape[1]:
        raise ValueError(f"1-NNA needs sets of one size; there are {across.shape[0]} and {across.shape[1]}")
    right = torch.cat([_own_share(among_samples, across), _own_share(among_references, across.T)])
    return right.mean().item()


def _own_share(own: Tensor, other: Tensor) -> Tensor:
    """For each row, the share of its own set among those nearest to it, `[n]`."""
    away = torch.eye(len(own), dtype=torch.bool, device=own.device)
    own = own.masked_fill(away, torch.inf)
    least = torch.minimum(own.amin(1), other.amin(1))[:, None]
    mine, theirs = (own == least).sum(1).double(), (other == least).sum(1).double()
    return mine / (mine + theirs)
