"""How often the right one of many texts is found, and how near pictures are to those of a set."""

import torch
from scipy.stats import hypergeom
from torch import Tensor

AMONG = 100
"""The number of texts among which the right one is looked for."""


def found_among(similarity: Tensor, right: Tensor, k: int, among: int = AMONG) -> Tensor:
    """The probability that the right one is among the k nearest of `among` texts, float64 `[n]`.

    * `similarity`: of pictures and texts, `[n, m]`.
    * `right`: the text of each picture, int64 `[n]`.

    The others are drawn at random from the m - 1 other texts without repetition, all of them if there are fewer. If b
    of the m - 1 are as near as the right one or nearer, their number among those drawn has a hypergeometric
    distribution, and the probability is that of at most k - 1.
    """
    others = similarity.shape[1] - 1
    own = similarity.gather(1, right[:, None])
    nearer = (similarity >= own - 1e-6).sum(1) - 1
    return torch.from_numpy(hypergeom.cdf(k - 1, others, nearer.numpy(), min(among - 1, others)))


def nearest(pixels: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The distances of each picture to the nearest and to the second nearest of `reference`, each `[n]`.

    Both are uint8 `[n, C, H, W]`. The distance is the root mean square of the differences of all values of pixels.
    """
    flat = reference.flatten(1).float()
    two = [torch.cdist(part.flatten(1).float(), flat).topk(2, largest=False).values for part in pixels.split(500)]
    first, second = (torch.cat(two) / flat.shape[1] ** 0.5).unbind(1)
    return first, second
