"""Figures that any modality can use, computed from features."""

import math

import torch
from torch import Tensor

from diffcore.errors import UserError


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets of features `[n, d]`.

    The squared 2-Wasserstein distance of the Gaussians with their means and covariances (Dowson & Landau 1982;
    Heusel et al. 2017). tr (C1 C2)^(1/2) is the sum of the singular values of A1 A2^T / sqrt((n1 - 1)(n2 - 1)) for
    the centred features, which needs no matrix square root and stays exact for singular covariances.
    """
    first, second = first.double(), second.double()
    if len(first) < 2 or len(second) < 2:
        raise UserError("a Frechet distance needs at least 2 samples on either side")
    means = (first.mean(0) - second.mean(0)).square().sum()
    a, b = (_root_of_covariance(features) for features in (first, second))
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return max((means + a.square().sum() + b.square().sum() - 2 * cross).item(), 0.0)


def _root_of_covariance(features: Tensor) -> Tensor:
    """R `[min(n, d), d]` with R^T R the unbiased covariance, by QR of the centred features."""
    centred = features - features.mean(0)
    return torch.linalg.qr(centred, mode="r").R / math.sqrt(len(features) - 1)


def halves_distance(features: Tensor, classes: Tensor | None = None, splits: int = 5, seed: int = 0) -> float:
    """Mean Frechet distance between random halves of real features `[n, d]`: what a perfect model would about reach.

    With `classes` `[n]`, each class is halved, as conditional samples have their classes in equal parts too.
    """
    if len(features) < 4:
        raise UserError(f"figures need at least 4 real examples to compare with; there are {len(features)}")
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(splits):
        keys = torch.rand(len(features), generator=generator, dtype=torch.float64)
        order = torch.argsort(keys if classes is None else keys + classes)
        distances.append(frechet_distance(features[order[0::2]], features[order[1::2]]))
    return sum(distances) / splits
