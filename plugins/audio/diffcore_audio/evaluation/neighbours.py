"""Distances of samples to the nearest training sounds, to detect copies."""

import math

import torch
from torch import Tensor

from diffcore_audio.signals.waves import SILENCE


def nearest(spectra: Tensor, others: Tensor | None = None) -> Tensor:
    """The RMS difference in dB of each log-mel spectrogram `[n, ...]` to the nearest of `others` `[m, ...]`, `[n]`.

    Levels are clamped to -60 dB, because otherwise faint noise in pauses would outweigh the sound. Without `others`, it
    is the distance to the nearest other one of `spectra`, infinite if there is only one.
    """
    rows = spectra.flatten(1).clamp(min=SILENCE)
    columns = rows if others is None else others.flatten(1).clamp(min=SILENCE)
    nearest_distances = []
    for start in range(0, len(rows), 500):
        part = rows[start : start + 500]
        distances = torch.cdist(part, columns)
        if others is None:
            own = torch.arange(len(part))
            distances[own, own + start] = math.inf
        smallest, index = distances.min(1)
        exact = (part - columns[index]).double().square().sum(1).sqrt()  # cdist is inexact near zero
        nearest_distances.append(exact.where(smallest.isfinite(), math.inf))
    return torch.cat(nearest_distances) / math.sqrt(rows.shape[1])


def distances(spectra: Tensor, others: Tensor) -> Tensor:
    """The RMS differences in dB of log-mel spectrograms `[n, ...]` to others `[m, ...]`, clamped likewise, `[n, m]`."""
    rows, columns = (each.flatten(1).clamp(min=SILENCE).double() for each in (spectra, others))
    return torch.cdist(rows, columns) / math.sqrt(rows.shape[1])


def copy_threshold(real: Tensor) -> float:
    """The distance to a training sound below which a sample counts as a copy.

    `real` `[n]` are the distances of real sounds that are not copies. The threshold is their 1 % quantile, but at least
    a quarter of their median, as real data sets contain duplicates too.
    """
    return max(real.double().quantile(0.01).item(), real.double().median().item() / 4)
