"""Vocoders: functions of mel spectrograms that return waveforms."""

import math
from collections.abc import Callable
from functools import partial
from importlib import metadata

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore_audio.options import SPECTRAL, MelFacts
from diffcore_audio.signals.fourier import stft
from diffcore_audio.signals.inversion import mel_filters, nonnegative_inverse
from diffcore_audio.signals.mels import mel
from diffcore_audio.signals.phases import consistent, integrated_phases

VOCODERS = "diffcore.vocoders"
"""The entry-point group of vocoders: functions of `MelFacts` and the sampling rate that return a `Vocoder`."""

Vocoder = Callable[[Tensor], Tensor]
"""Converts log(max(mel, floor)) `[B, C, mels, columns]`, not standardised, to waveforms of at least `[B, C, L]`."""

_FAINT = math.log(10) * 3 / 20
"""Bands within 3 dB of the floor are taken as silent, or the errors of a model would be a hiss in pauses."""

_MAIN_LOBE = 4
"""Width of the main lobe of a Hann window, in frequencies of the transform."""

_MOMENTUM = 0.99
"""Of the iterations of Griffin-Lim."""

_GAIN = 2.0
"""The largest factor by which a sound is scaled in the end; real ones need at most 1.05."""


def vocoder(facts: MelFacts, rate: int) -> Vocoder:
    """The vocoder that `facts` name; raises `UserError` if it is not installed or cannot be loaded."""
    if facts.vocoder in _OWN:
        return _OWN[facts.vocoder](facts, rate)
    installed = metadata.entry_points(group=VOCODERS)
    if facts.vocoder not in installed.names:
        names = ", ".join([*_OWN, *sorted(installed.names)])
        raise UserError(f"the vocoder {facts.vocoder!r} is not installed; set `data.vocoder` to one of: {names}")
    try:
        return installed[facts.vocoder].load()(facts, rate)
    except Exception as error:  # third-party code can raise anything
        raise UserError(f"the vocoder {facts.vocoder!r} cannot be loaded: {type(error).__name__}: {error}") from error


def spectral(facts: MelFacts, rate: int, iterations: int = 16) -> Vocoder:
    """A vocoder without weights, which always gives the same sound for a spectrogram.

    Magnitudes are those of `diffcore_audio.signals.inversion.nonnegative_inverse`. Phases begin as integrated gradients
    up to the frequency at which bands are as far apart as a tone is wide; beyond it, a spectrogram does not tell tones
    from noise, and phases begin as 0. `iterations` of fast Griffin-Lim follow.
    """
    resolved = _resolved(facts, rate)

    def begin(magnitudes: Tensor) -> Tensor:
        low = integrated_phases(magnitudes[:, :resolved], facts.fft, facts.hop)
        return torch.cat([low, torch.zeros_like(magnitudes[:, resolved:])], 1)

    return _vocoder(facts, rate, nonnegative_inverse, begin, iterations)


def griffin_lim(facts: MelFacts, rate: int, iterations: int = 32) -> Vocoder:
    """A simpler vocoder: magnitudes of least norm, and `iterations` of fast Griffin-Lim from phases that are 0."""
    return _vocoder(facts, rate, partial(nonnegative_inverse, iterations=0), torch.zeros_like, iterations)


_OWN = {SPECTRAL: spectral, "griffin-lim": griffin_lim}
"""The vocoders that need no installation."""


def _vocoder(
    facts: MelFacts,
    rate: int,
    inverse_of: Callable[[Tensor], Callable[[Tensor], Tensor]],
    begin: Callable[[Tensor], Tensor],
    iterations: int,
) -> Vocoder:
    """A vocoder whose magnitudes are those of `inverse_of(filters)`, and whose first phases are `begin(magnitudes)`.

    No waveform has exactly these magnitudes, and the nearest one has less energy, above all where the sound is noise.
    So each sound is scaled such that its bands have the energy of the spectrogram.
    """
    filters = mel_filters(facts, rate)
    inverse = inverse_of(filters)
    silence, loudest = math.log(facts.floor) + _FAINT, math.log(10 * facts.fft)

    def vocode(log_mel: Tensor) -> Tensor:
        bands = log_mel.clamp(max=loudest).exp().where(log_mel > silence, 0)
        magnitudes = inverse(bands)
        phases = begin(magnitudes.flatten(0, 1)).view_as(magnitudes)
        start, length = torch.polar(torch.ones_like(phases), phases), facts.hop * (log_mel.shape[-1] - 1)
        found = consistent(start, magnitudes, facts.fft, facts.hop, length, iterations, _MOMENTUM)
        obtained = filters.to(found).T @ stft(found, facts.fft, facts.hop).abs()
        wanted, energy = (part.square().sum((1, 2, 3)).clamp(min=1e-12) for part in (bands, obtained))
        return found * (wanted / energy).sqrt().clamp(max=_GAIN)[:, None, None]

    return vocode


def _resolved(facts: MelFacts, rate: int) -> int:
    """The number of frequencies of the transform up to where the bands are further apart than a tone is wide."""
    step = (mel(facts.high) - mel(facts.low)) / (facts.mels + 1)
    # Bands at f and at step mels above it are (700 + f) (10^(step / 2595) - 1) Hz apart.
    limit = _MAIN_LOBE * rate / facts.fft / (10 ** (step / 2595) - 1) - 700
    return min(max(0, math.ceil(limit * facts.fft / rate)), facts.fft // 2 + 1)
