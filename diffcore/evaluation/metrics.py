"""Figures that any modality can use, computed from features."""

import math

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.plugins.output import Metric


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
        raise UserError(f"metrics need at least 4 real examples to compare with; there are {len(features)}")
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(splits):
        keys = torch.rand(len(features), generator=generator, dtype=torch.float64)
        order = torch.argsort(keys if classes is None else keys + classes)
        distances.append(frechet_distance(features[order[0::2]], features[order[1::2]]))
    return sum(distances) / splits


def inception_score(logits: Tensor) -> float:
    """exp(mean KL(p(y | x) || p(y))) of a classifier's logits `[n, k]`: 1 to k (Salimans et al. 2016, section 4)."""
    log_p = logits.double().log_softmax(1)
    marginal = log_p.logsumexp(0) - math.log(len(log_p))
    return math.exp((log_p.exp() * (log_p - marginal)).sum(1).mean().item())


def principal_axes(vectors: Tensor, most: int) -> Tensor:
    """The first principal axes of `vectors` `[n, d]`, at most `most`, as columns `[d, k]`; the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.pca_lowrank(vectors, q=min(most, *vectors.shape), niter=4)[2]


def distance_metrics(
    samples: Tensor,
    reference: Tensor,
    classes: Tensor | None,
    what: str,
    space: str,
    beside: Tensor | None = None,
) -> list[Metric]:
    """The Frechet distance of features `[n, d]` to those of real examples, one of real examples alone, and the ratio.

    `what` says in words what the real examples are and `space` what the features are. The real distance is that of
    `beside`, other real examples, to the reference; of both then are taken as many, at even distances, as finite sets
    have a distance too large. Without them it is that of two halves of the reference, each of its `classes` halved.
    """
    if beside is None:
        real, told = (
            halves_distance(reference, classes),
            "two halves of those real ones, class by class, mean of 5 splits",
        )
    else:
        samples, beside = (evenly(those, min(len(samples), len(beside))) for those in (samples, beside))
        real, told = frechet_distance(beside, reference), f"{len(beside)} held-out real ones in place of the samples"
    distance = frechet_distance(samples, reference)
    return [
        Metric("frechet_distance", distance, f"{len(samples)} samples against {len(reference)} {what}, in {space}"),
        Metric("frechet_distance_real", real, told),
        Metric("frechet_ratio", distance / max(real, 1e-12), "the first over the second"),
    ]


def evenly(rows: Tensor, count: int) -> Tensor:
    """`count` of the rows, at even distances."""
    return rows[torch.arange(count) * len(rows) // count]


def agreement_metrics(logits: Tensor, asked: Tensor, real: float) -> list[Metric]:
    """The share of samples that a classifier takes for the class that they were `asked` to be; `real` is the data's."""
    agreement = (logits.argmax(1) == asked.to(logits.device)).double().mean().item()
    return [
        Metric("class_agreement", agreement, "share of samples that a classifier takes for the asked class"),
        Metric("class_agreement_real", real, "the same for real ones, held out where there are any"),
    ]
