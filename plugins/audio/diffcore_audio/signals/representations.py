"""Waveforms as spectrograms, and back. Shapes are `[B, C, L]` and `[B, rows, bands, columns]`."""

import math
from collections.abc import Callable
from importlib import metadata
from typing import Protocol

import torch
from torch import Tensor
from torchaudio.functional import griffinlim, melscale_fbanks

from diffcore.errors import UserError
from diffcore_audio.options import ComplexFacts, MelFacts, SoundFacts, SoundOptions

VOCODERS = "diffcore.vocoders"
"""Entry points of this group are functions of `MelFacts` and the rate that give a `Vocoder`."""

GRIFFIN_LIM = "griffin-lim"

Vocoder = Callable[[Tensor], Tensor]
"""log(max(mel, floor)) `[B, C, mels, columns]`, not standardised, to a waveform `[B, C, L]`, or a little longer."""

_COLUMNS = 16
"""Spectrograms have a multiple of so many columns, so that a network can fold and halve them."""

_FLOOR = 1e-3
"""Mel magnitudes below this are silence: a sine of full scale has fft / 4, so it is 108 dB below for fft = 1024."""


class Representation(Protocol):
    """A spectrogram that the codec can use."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, bands and columns of a state."""

    def state(self, waveform: Tensor) -> Tensor:
        """`[B, C, L]` to `[B, *shape]`."""

    def waveform(self, state: Tensor) -> Tensor:
        """`[B, *shape]` to `[B, C, L]`."""


class ComplexSpectrogram:
    """x = scale |c|^exponent e^(i arg c), c the short-time Fourier transform with a Hann window, centred.

    Rows are the real and the imaginary part of each channel. A power of the magnitude less than one (Richter et al.
    2023, SGMSE+, equation 1) brings what is quiet near to what is loud, which is how it is heard, and near to a normal
    distribution. It can be undone, and the transform can be inverted, so waveforms come back exactly.

    One scale serves all frequencies: the deviation of a frequency is 0.8 to 2.2 of the whole on the embedded drums and
    0.7 to 1.7 on recorded ones, which the first layer of a network can undo, and the loss goes on weighing frequencies
    by what they hold. Whether a scale for each would train better was not tried.
    """

    def __init__(self, facts: ComplexFacts, channels: int, samples: int) -> None:
        self.facts = facts
        self.samples = samples
        self.shape = (2 * channels, facts.fft // 2 + 1, samples // facts.hop + 1)

    def state(self, waveform: Tensor) -> Tensor:
        c = _fourier(waveform, self.facts.fft, self.facts.hop)
        c = c * (self.facts.scale * c.abs().clamp(min=1e-12).pow(self.facts.exponent - 1))
        return torch.view_as_real(c).movedim(-1, 2).flatten(1, 2)

    def waveform(self, state: Tensor) -> Tensor:
        parts = (state / self.facts.scale).unflatten(1, (-1, 2)).movedim(2, -1).contiguous()
        c = torch.view_as_complex(parts)
        c = c * c.abs().pow(1 / self.facts.exponent - 1)
        fft, hop = self.facts.fft, self.facts.hop
        window = torch.hann_window(fft, dtype=state.dtype, device=state.device)
        return torch.istft(c.flatten(0, 1), fft, hop, window=window, length=self.samples).unflatten(0, c.shape[:2])


class MelSpectrogram:
    """x = (log(max(mel, floor)) - mean) / std; mel are magnitudes under triangles evenly spaced in HTK's mel.

    Phases are lost: the way back is a vocoder. The default one spreads each mel over its frequencies by least squares
    and looks for phases that agree with the magnitudes (Griffin & Lim 1984, with the momentum of Perraudin et al.
    2013), from zero phases on, so it always gives the same. Raises `UserError` where the vocoder is not installed.
    """

    def __init__(self, facts: MelFacts, channels: int, samples: int, rate: int) -> None:
        self.facts = facts
        self.samples = samples
        self.shape = (channels, facts.mels, samples // facts.hop + 1)
        self._triangles = _triangles(facts, rate)
        self._vocoder = vocoder(facts, rate)

    def state(self, waveform: Tensor) -> Tensor:
        magnitudes = _fourier(waveform, self.facts.fft, self.facts.hop).abs()
        mel = self._triangles.to(magnitudes).T @ magnitudes
        return (mel.clamp(min=self.facts.floor).log() - self.facts.mean) / self.facts.std

    def waveform(self, state: Tensor) -> Tensor:
        made = self._vocoder(state * self.facts.std + self.facts.mean)[..., : self.samples]
        return torch.nn.functional.pad(made, (0, self.samples - made.shape[-1]))


def representation(facts: SoundFacts) -> Representation:
    """The spectrogram that `facts` describe."""
    if isinstance(facts.codec, ComplexFacts):
        return ComplexSpectrogram(facts.codec, facts.channels, facts.samples)
    return MelSpectrogram(facts.codec, facts.channels, facts.samples, facts.rate)


def length(options: SoundOptions) -> int:
    """Samples of a sound: `seconds`, rounded up until the spectrogram has a multiple of 16 columns.

    A centred transform of L samples has L / hop + 1 columns, so L = hop (columns - 1).
    """
    hops = -(-round(options.seconds * options.rate) // options.hop)
    return options.hop * (-(-(hops + 1) // _COLUMNS) * _COLUMNS - 1)


def unfitted(options: SoundOptions) -> ComplexFacts | MelFacts:
    """What is asked for, before it is fitted to data."""
    if options.codec == "complex":
        return ComplexFacts(fft=2 * (options.rows - 1), hop=options.hop, exponent=options.exponent, scale=1)
    return MelFacts(
        fft=options.window,
        hop=options.hop,
        mels=options.rows,
        low=options.low,
        high=options.highest,
        floor=_FLOOR,
        mean=0,
        std=1,
        vocoder=options.vocoder,
    )


def fitted(facts: SoundFacts, waveform: Tensor) -> SoundFacts:
    """The same facts with a codec that gives `waveform` `[B, C, L]` unit variance, and a mel spectrogram zero mean."""
    state = representation(facts).state(waveform).double()
    if isinstance(facts.codec, ComplexFacts):
        scale = facts.codec.scale / state.square().mean().sqrt().clamp(min=1e-9).item()
        return facts.model_copy(update={"codec": facts.codec.model_copy(update={"scale": scale})})
    state = state * facts.codec.std + facts.codec.mean
    moments = {"mean": state.mean().item(), "std": max(state.std(correction=0).item(), 1e-3)}
    return facts.model_copy(update={"codec": facts.codec.model_copy(update=moments)})


def vocoder(facts: MelFacts, rate: int) -> Vocoder:
    """The vocoder that `facts` name; raises `UserError` where it is not installed or cannot be loaded."""
    if facts.vocoder == GRIFFIN_LIM:
        return griffin_lim(facts, rate)
    installed = metadata.entry_points(group=VOCODERS)
    if facts.vocoder not in installed.names:
        names = ", ".join([GRIFFIN_LIM, *sorted(installed.names)])
        raise UserError(f"the vocoder {facts.vocoder!r} is not installed; there are: {names}")
    try:
        return installed[facts.vocoder].load()(facts, rate)
    except Exception as error:  # whatever a stranger's code raises, the user needs its name
        raise UserError(f"the vocoder {facts.vocoder!r} cannot be used: {type(error).__name__}: {error}") from error


def griffin_lim(facts: MelFacts, rate: int, iterations: int = 32) -> Vocoder:
    """A vocoder without weights."""
    # torchaudio's InverseMelScale solves the same least squares, of least norm, once for each sound and 100 ms long.
    spread = torch.linalg.pinv(_triangles(facts, rate).double().T)
    silence, loudest = math.log(facts.floor) + 1e-4, math.log(10 * facts.fft)

    def vocode(log_mel: Tensor) -> Tensor:
        mel = log_mel.clamp(max=loudest).exp().where(log_mel > silence, 0)
        magnitudes = (spread.to(mel) @ mel).clamp(min=0)
        window = torch.hann_window(facts.fft, dtype=mel.dtype, device=mel.device)
        return griffinlim(magnitudes, window, facts.fft, facts.hop, facts.fft, 1.0, iterations, 0.99, None, False)

    return vocode


def _fourier(waveform: Tensor, fft: int, hop: int) -> Tensor:
    """Centred, mirrored at the ends: `[B, C, L]` to complex `[B, C, fft / 2 + 1, columns]`."""
    window = torch.hann_window(fft, dtype=waveform.dtype, device=waveform.device)
    flat = waveform.flatten(0, 1)
    return torch.stft(flat, fft, hop, window=window, return_complex=True).unflatten(0, waveform.shape[:2])


def _triangles(facts: MelFacts, rate: int) -> Tensor:
    """`[fft / 2 + 1, mels]`; raises `UserError` where a triangle is so narrow that no frequency falls into it."""
    filters = melscale_fbanks(facts.fft // 2 + 1, facts.low, facts.high, facts.mels, rate)
    if empty := int((filters.sum(0) == 0).sum()):
        raise UserError(
            f"{empty} of {facts.mels} mels would lie between the frequencies of a window of {facts.fft} samples: "
            "take fewer (`data.bands`) or a longer window (`data.window`)"
        )
    return filters
