"""Joins what was generated with what is known of a sound, without clicks."""

import torch
from torch import Tensor

from diffcore_audio.signals.fourier import stft
from diffcore_audio.signals.phases import consistent

_ITERATIONS = 30
"""Of Griffin-Lim, for phases that go on from those of the known part."""

_SEAM = 0.005
"""Duration in seconds of the cross-fade at each seam, within the known part."""


def joined(generated: Tensor, original: Tensor, known: Tensor, fft: int, hop: int, rate: int) -> Tensor:
    """The `original` `[C, L]` where it is `known` `[L]`, and what was `generated` `[B, C, L]` elsewhere: `[B, C, L]`.

    The phases of the generated part are adapted to the known part: first, each frequency is turned by the angle that it
    lacks at the seam, or, between two seams, by an angle that changes evenly from that of one to that of the other.
    Then follows Griffin-Lim: the magnitudes of the spectrogram are those of the generated sound, or of the original
    where its window lies in the known part; and after each iteration, the known samples are put in again. The last 5 ms
    of the known part before a seam, and the first ones after it, are a cross-fade of both; all other known samples are
    unchanged. The generated part is clipped at full scale, so that the known part need not be scaled down.
    """
    original = original.expand_as(generated)
    window_known = columns_known(known, fft, hop)
    of_original, of_generated = stft(original, fft, hop), stft(generated, fft, hop)
    magnitudes = torch.where(window_known, of_original.abs(), of_generated.abs())
    start = _turned(of_generated, of_original, window_known)

    def given(waveform: Tensor) -> Tensor:
        return torch.where(known, original, waveform)

    found = consistent(start, magnitudes, fft, hop, generated.shape[-1], _ITERATIONS, given=given)
    weight = _weights(known, max(1, round(_SEAM * rate)))
    mixed = weight * original + (1 - weight) * found.clamp(-1, 1)
    return torch.where(weight == 1, original, mixed)


def _turned(generated: Tensor, original: Tensor, known: Tensor) -> Tensor:
    """The spectrum of the original in the columns that are `known`, and the generated one turned towards it elsewhere.

    Both are complex `[B, C, frequencies, columns]`, and `known` is `[columns]`.
    """
    angles = (original * generated.conj()).angle()
    turned = torch.where(known, original, generated)
    for start, end in _runs(~known):
        left, right = start - 1 if start else end, end if end < len(known) else start - 1
        if not (0 <= left < len(known) and 0 <= right < len(known)):
            continue
        first, last = angles[..., left, None], angles[..., right, None]
        difference = torch.remainder(last - first + torch.pi, 2 * torch.pi) - torch.pi
        share = (torch.arange(start, end) - left) / max(right - left, 1) if left < right else torch.zeros(end - start)
        turned[..., start:end] = generated[..., start:end] * torch.exp(1j * (first + difference * share))
    return turned


def _runs(flags: Tensor) -> list[tuple[int, int]]:
    """The first position of each run of True in `flags` `[n]`, and the position after its last one."""
    edges = torch.nn.functional.pad(flags.int(), (1, 1)).diff()
    return [*zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist(), strict=True)]


def columns_known(known: Tensor, fft: int, hop: int) -> Tensor:
    """The columns of a spectrogram whose window contains nothing but `known` samples `[L]`: bool `[columns]`.

    Windows that go beyond an end see the sound reflected there, as the transform does.
    """
    padded = torch.nn.functional.pad(known.float()[None], (fft // 2, fft // 2), mode="reflect")[0]
    return padded.unfold(0, fft, hop).amin(1) > 0


def _weights(known: Tensor, frames: int) -> Tensor:
    """The weight of the original `[L]`: 0 where it is unknown, and d / (frames + 1), at most 1, in known samples.

    d is the distance to the nearest unknown sample, so the ramp has `frames` samples.
    """
    place = torch.arange(len(known))
    before = torch.where(known, -len(known), place).cummax(0).values
    after = torch.where(known, 2 * len(known), place).flip(0).cummin(0).values.flip(0)
    return (torch.minimum(place - before, after - place) / (frames + 1)).clamp(max=1)
