"""Metrics for any modality, computed from features or logits of samples."""

import math

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.plugins.output import Metric
from diffcore.states.global_random import seeded
from diffcore.states.noise import generator_for


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets of features `[n, d]`.

    m1, m2 and C1, C2 are the means and the unbiased covariances of the two sets. The distance is the squared
    2-Wasserstein distance of the Gaussians with these moments (Dowson & Landau 1982; Heusel et al. 2017).
    tr (C1 C2)^(1/2) is the sum of the singular values of A1 A2^T / sqrt((n1 - 1)(n2 - 1)) for the centred features,
    which needs no matrix square root and is exact for singular covariances too. Raises `UserError` for sets of fewer
    than 2.
    """
    first, second = first.double(), second.double()
    if len(first) < 2 or len(second) < 2:
        raise UserError("a Frechet distance needs at least 2 samples in each set")
    means = (first.mean(0) - second.mean(0)).square().sum()
    a, b = (_root_of_covariance(features) for features in (first, second))
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return max((means + a.square().sum() + b.square().sum() - 2 * cross).item(), 0.0)


def _root_of_covariance(features: Tensor) -> Tensor:
    """R `[min(n, d), d]` such that R^T R is the unbiased covariance, by a QR decomposition of the centred features."""
    centred = features - features.mean(0)
    return torch.linalg.qr(centred, mode="r").R / math.sqrt(len(features) - 1)


def halves_distance(features: Tensor, classes: Tensor | None = None, splits: int = 5, seed: int = 0) -> float:
    """Mean Frechet distance between two random halves of real features `[n, d]`: about that of a perfect model.

    With `classes` `[n]`, each class is split into halves, because conditional samples have equal parts of each class
    too. Raises `UserError` for fewer than 4 examples.
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
    """The first principal axes of `vectors` `[n, d]`, at most `most`, as columns `[d, k]`. It is deterministic."""
    with seeded(0):
        return torch.pca_lowrank(vectors, q=min(most, *vectors.shape), niter=4)[2]


def distance_metrics(
    samples: Tensor,
    reference: Tensor,
    classes: Tensor | None,
    what: str,
    space: str,
    held_out: Tensor | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
) -> list[Metric]:
    """The Frechet distance of features `[n, d]` of samples to a reference, the same for real examples, and the ratio.

    `reference` has the features of real examples. `what` describes these examples, and `space` the features, for the
    meaning of the metrics. The distance of real examples is that of `held_out`, the features of other real examples, to
    the reference. Since the distance of finite sets is biased upwards, it is computed for sets of as many samples as
    there are held-out examples: for all such sets into which the samples can be divided, of which the mean is taken,
    because a few unusual samples change a distance a lot. With `labels`, the classes of the samples and of the held-out
    examples, each set has as many samples of each class as there are held-out examples of it. Without `held_out`, the
    distance of real examples is that of two halves of the reference, where each of `classes` is halved.
    """
    if held_out is None:
        sets = [torch.arange(len(samples))]
        real, real_meaning = (
            halves_distance(reference, classes),
            "two halves of these real examples, class by class, mean of 5 splits",
        )
    else:
        sets = _sets_of_classes(*labels) if labels is not None else []
        if not sets:
            held_out = evenly(held_out, min(len(samples), len(held_out)))
            sets = _sets(len(samples), len(held_out))
        real = frechet_distance(held_out, reference)
        real_meaning = f"{len(held_out)} held-out real examples in place of the samples"
    distances = [frechet_distance(samples[chosen], reference) for chosen in sets]
    distance, compared = sum(distances) / len(sets), f"{len(sets[0])} samples"
    if len(sets) > 1:
        compared += f" (mean of {len(sets)} sets, from {min(distances):.4g} to {max(distances):.4g})"
    return [
        Metric("frechet_distance", distance, f"{compared} against {len(reference)} {what}, in {space}"),
        Metric("frechet_distance_real", real, real_meaning),
        Metric("frechet_ratio", distance / max(real, 1e-12), "frechet_distance / frechet_distance_real"),
    ]


def _sets_of_classes(labels: Tensor, wanted: Tensor) -> list[Tensor]:
    """Rows of as many sets as possible that have each class as often as `wanted` has it; none if that is impossible."""
    labels, wanted = labels.cpu(), wanted.cpu()
    classes, counts = wanted.unique(return_counts=True)
    rows = [(labels == number).nonzero()[:, 0] for number in classes]
    most = min(len(row) // int(count) for row, count in zip(rows, counts, strict=True))
    return [
        torch.cat([row[number::most][:count] for row, count in zip(rows, counts.tolist(), strict=True)])
        for number in range(most)
    ]


def _sets(total: int, count: int) -> list[Tensor]:
    """Rows of as many sets of `count` out of `total` as possible, at equal distances.

    Each class of rows is in all sets, whether the classes alternate or are sorted.
    """
    most = total // count
    place = torch.arange(most * count)
    number = (place + place // most) % most
    rows = evenly(torch.arange(total), most * count)
    return [rows[number == each] for each in range(most)]


def evenly(rows: Tensor, count: int) -> Tensor:
    """`count` of the rows, at equal distances."""
    return rows[torch.arange(count) * len(rows) // count]


def agreement_metrics(logits: Tensor, requested: Tensor, real: float) -> list[Metric]:
    """The fraction of samples that a classifier assigns to their `requested` class; `real` is that of real examples."""
    agreement = (logits.argmax(1) == requested.to(logits.device)).double().mean().item()
    return [
        Metric("class_agreement", agreement, "fraction of samples that a classifier assigns to the requested class"),
        Metric("class_agreement_real", real, "the same for real examples, held-out ones if there are any"),
    ]


def others(count: int) -> Tensor:
    """For each of `count` rows another one, int64 `[count]`: a random cycle of all of them, with a fixed seed.

    What agrees with another example tells what chance gives.
    """
    order = torch.randperm(count, generator=generator_for("others"))
    other = torch.empty(count, dtype=torch.int64)
    other[order] = order.roll(1)
    return other
