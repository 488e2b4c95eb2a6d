"""Whether samples are sounds of the training set over again."""

import math

import torch
from torch import Tensor

from diffcore_audio.signals.waves import SILENCE


def nearest(spectra: Tensor, others: Tensor | None = None) -> Tensor:
    """The RMS difference in dB of each log-mel spectrogram `[n, ...]` to the nearest of `others` `[m, ...]`, `[n]`.

    What is quieter than -60 dB counts as that: else faint hiss in pauses would weigh more than the sound. Without
    `others`, the distance to the nearest of the rest; infinite where there is no rest.
    """
    rows = spectra.flatten(1).clamp(min=SILENCE)
    columns = rows if others is None else others.flatten(1).clamp(min=SILENCE)
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


def copied_within(real: Tensor) -> float:
    """How near to a training sound only a copy is, out of the distances of real ones that are none, `[n]`.

    As near as the nearest hundredth of them; at least a quarter of their median, as real sets have doubles too.
    """
    return max(real.double().quantile(0.01).item(), real.double().median().item() / 4)
