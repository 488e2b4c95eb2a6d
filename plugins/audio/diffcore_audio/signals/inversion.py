"""Mel filters, and the magnitudes of a Fourier transform from the levels of mel bands."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from diffcore.errors import UserError
from diffcore_audio.options import MelFacts

_ITERATIONS = 40
"""Of the least-squares problem. Of 20, 40, 100 and 400 iterations, all reconstruct noise equally well; the spectral
distance of cowbells, whose partials lie close together, is 0.97, 0.89, 0.85 and 0.81 dB (1.71 without iterations)."""


def mel_filters(facts: MelFacts, rate: int) -> Tensor:
    """Mel filters `[fft / 2 + 1, mels]`; raises `UserError` if one is so narrow that it contains no frequency."""
    filters = melscale_fbanks(facts.fft // 2 + 1, facts.low, facts.high, facts.mels, rate)
    if empty := int((~(filters.sum(0) > 0)).sum()):  # also those that are not finite, at the very lowest frequencies
        raise UserError(
            f"{empty} of {facts.mels} mel bands contain no frequency of a window of {facts.fft} samples; "
            "decrease `data.bands` or increase `data.window`"
        )
    return filters


def nonnegative_inverse(filters: Tensor, iterations: int = _ITERATIONS) -> Callable[[Tensor], Tensor]:
    """A function of band levels b `[..., mels, columns]` to magnitudes m >= 0 `[..., frequencies, columns]`.

    With A the transposed `filters` `[frequencies, mels]`, each row divided by its norm, and b divided likewise, it
    minimises |A m - b|^2 subject to m >= 0. There are more frequencies than bands, so without the constraint the
    solution of least norm smears a tone over the whole band, with negative values beside it. The constraint narrows
    it: the levels of neighbouring bands then tell where between them a tone lies. The method is the projected gradient
    with momentum (FISTA: Beck & Teboulle 2009), from the solution of least norm, whose negative values are set to 0.
    """
    norms = filters.norm(dim=0)[:, None]
    rows = filters.T / norms
    # Where bands are narrower than the distance of two frequencies, some repeat others, and are not inverted.
    start = torch.linalg.pinv(rows.double(), rtol=1e-3)
    step = 1 / torch.linalg.matrix_norm(rows.double(), 2).square().item()

    def inverse(levels: Tensor) -> Tensor:
        sounding = levels.movedim(-2, -1).flatten(0, -2)  # [columns of all sounds, mels]
        magnitudes = levels.new_zeros(len(sounding), len(filters))
        present = sounding.any(1)
        target, forward = (sounding[present] / norms.to(levels)[:, 0]).T, rows.to(levels)
        now = extrapolated = (start.to(levels) @ target).clamp(min=0)
        momentum = 1.0
        for _ in range(iterations):
            gradient = forward.T @ (forward @ extrapolated - target)
            following = (extrapolated - step * gradient).clamp(min=0)
            larger = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            extrapolated = following + (momentum - 1) / larger * (following - now)
            now, momentum = following, larger
        magnitudes[present] = now.T
        return magnitudes.view(*levels.shape[:-2], levels.shape[-1], -1).movedim(-1, -2)

    return inverse
