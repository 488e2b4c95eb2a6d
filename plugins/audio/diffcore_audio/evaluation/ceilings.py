"""What the codec alone does to real sounds: the best that samples can be, however good the model is."""

import torch
from torch import Tensor

from diffcore.evaluation.metrics import evenly
from diffcore.plugins.output import Metric
from diffcore_audio.options import SoundFacts
from diffcore_audio.signals.distances import log_spectral_distance, stft_distance
from diffcore_audio.signals.representations import representation
from diffcore_audio.signals.waves import finite, floats

_MOST, _LEAST, _VALUES = 300, 16, 2**22
"""Sounds that are encoded and decoded at most, and at least; and values of all of them together."""

_AT_ONCE = 2**19
"""Values that are encoded and decoded at once, which bounds the memory."""


def rebuilt(waveforms: Tensor, facts: SoundFacts) -> tuple[Tensor, Tensor]:
    """Some of the sounds, int16 `[n, C, L]`, at equal distances: as floats, and after encoding and decoding."""
    each = waveforms[0].numel()
    chosen = floats(evenly(waveforms, min(len(waveforms), _MOST, max(_LEAST, _VALUES // each))))
    codec = representation(facts)
    parts = [codec.waveform(codec.state(part)) for part in chosen.split(max(1, _AT_ONCE // each))]
    return chosen, finite(torch.cat(parts))[0]


def distances(originals: Tensor, found: Tensor, what: str) -> list[Metric]:
    """How far sounds are from themselves after encoding and decoding."""
    return [
        Metric(
            "spectral_distance_codec",
            log_spectral_distance(originals, found),
            f"dB, mean difference of the spectra of {what} and of the same encoded and decoded",
        ),
        Metric(
            "stft_distance_codec",
            stft_distance(originals, found),
            "the same as multi-resolution STFT loss: spectral convergence and difference of log magnitudes",
        ),
    ]
