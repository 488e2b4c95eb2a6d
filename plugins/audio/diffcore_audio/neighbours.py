"""Whether samples are sounds of the training set over again."""

import math

import torch
from torch import Tensor

_SLACK = 1e-3
"""dB; distances that differ by less are the same."""


def nearest(spectra: Tensor, others: Tensor | None = None) -> Tensor:
    """The RMS difference in dB of each log-mel spectrogram `[n, ...]` to the nearest of `others` `[m, ...]`, `[n]`.

    Without `others`, to the nearest of the rest; infinite where there is no rest.
    """
    rows = spectra.flatten(1)
    columns = rows if others is None else others.flatten(1)
    found = []
    for start in range(0, len(rows), 500):
        part = rows[start : start + 500]
        distances = torch.cdist(part, columns)
        if others is None:
            own = torch.arange(len(part))
            distances[own, own + start] = math.inf
        least, index = distances.min(1)
        exact = (part - columns[index]).double().square().sum(1).sqrt()  # cdist rounds what is near to zero
        found.append(exact.where(least.isfinite(), math.inf))
    return torch.cat(found) / math.sqrt(rows.shape[1])


def copies(distances: Tensor, real: Tensor) -> float:
    """The share of samples that are no farther from a training sound than the nearest hundredth of real sounds are."""
    return (distances <= real.double().quantile(0.01) + _SLACK).double().mean().item()
