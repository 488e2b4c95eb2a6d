"""Converts waveforms `[B, C, L]` to the spectrograms that are diffused, `[B, rows, bands, columns]`, and back."""

from typing import Any, Protocol

import torch
from torch import Tensor

from diffcore_audio.options import ComplexFacts, MelFacts, SoundFacts, SoundOptions
from diffcore_audio.signals.fourier import stft
from diffcore_audio.signals.inversion import mel_filters
from diffcore_audio.signals.vocoders import vocoder

_COLUMNS = 16
"""The number of columns is a multiple of this, so that a network can split it into patches and halve it."""


class Representation(Protocol):
    """A conversion of waveforms to spectrograms that the codec can use."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, bands and columns of a state."""

    def state(self, waveform: Tensor) -> Tensor:
        """Convert waveforms `[B, C, L]` to states `[B, *shape]`."""

    def waveform(self, state: Tensor) -> Tensor:
        """Convert states `[B, *shape]` to waveforms `[B, C, L]`."""


class ComplexSpectrogram:
    """x = scale |c|^exponent e^(i arg c), with c the centred short-time Fourier transform with a Hann window.

    The rows are the real and the imaginary part of each channel. An exponent less than one (Richter et al. 2023,
    SGMSE+, equation 1) reduces the ratio of loud to quiet parts, as hearing does, and makes the distribution closer to
    a normal one. The compression and the transform are both invertible, so waveforms are restored exactly.

    All frequencies have the same scale. The standard deviation of a single frequency is 0.8 to 2.2 times that of all on
    the synthesised drums, and 0.7 to 1.7 times on recorded ones. The first layer of a network can correct that, and the
    loss still weights frequencies by their variance. Whether a scale for each frequency trains better was not tested.
    """

    def __init__(self, facts: ComplexFacts, channels: int, samples: int) -> None:
        self.facts = facts
        self.samples = samples
        self.shape = (2 * channels, facts.fft // 2 + 1, samples // facts.hop + 1)

    def state(self, waveform: Tensor) -> Tensor:
        c = stft(waveform, self.facts.fft, self.facts.hop)
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
    """x = (log(max(mel, floor)) - mean) / std, with mel the magnitudes in triangular bands, evenly spaced in HTK's mel.

    The phases are lost, so a vocoder converts states back (`diffcore_audio.signals.vocoders`). Raises `UserError` if it
    is not installed.
    """

    def __init__(self, facts: MelFacts, channels: int, samples: int, rate: int) -> None:
        self.facts = facts
        self.samples = samples
        self.shape = (channels, facts.mels, samples // facts.hop + 1)
        self._filters = mel_filters(facts, rate)
        self._vocoder = vocoder(facts, rate)

    def state(self, waveform: Tensor) -> Tensor:
        magnitudes = stft(waveform, self.facts.fft, self.facts.hop).abs()
        mel = self._filters.to(magnitudes).T @ magnitudes
        return (mel.clamp(min=self.facts.floor).log() - self.facts.mean) / self.facts.std

    def waveform(self, state: Tensor) -> Tensor:
        if self.samples > self.facts.hop * (state.shape[-1] - 1):  # the sound ends after the centre of the last window
            state = torch.cat([state, state[..., -1:]], -1)
        waveform = self._vocoder(state * self.facts.std + self.facts.mean)[..., : self.samples]
        return torch.nn.functional.pad(waveform, (0, self.samples - waveform.shape[-1]))


def representation(facts: SoundFacts) -> Representation:
    """The spectrogram that `facts` describe."""
    if isinstance(facts.codec, ComplexFacts):
        return ComplexSpectrogram(facts.codec, facts.channels, facts.samples)
    return MelSpectrogram(facts.codec, facts.channels, facts.samples, facts.rate)


def length(options: SoundOptions) -> int:
    """Length of a sound in samples: `seconds`, or the next length whose spectrogram has a multiple of 16 columns.

    It is a multiple of 16 for the coarse spectrogram too, where there is one. A centred transform of L samples has
    floor(L / hop) + 1 columns, and rounding up gives L = hop (columns - 1). A sound is longer than half a window,
    because it is reflected at its ends.
    """
    fft = options.smaller.fft if options.upscale else options.fft
    samples = max(round(options.seconds * options.rate), fft // 2 + 1)
    return whole_columns(samples, options.step, _COLUMNS * max(1, options.upscale))


def whole_columns(samples: int, hop: int, columns: int = _COLUMNS) -> int:
    """The length of at least `samples` whose spectrogram has a multiple of `columns` columns."""
    if (samples // hop + 1) % columns == 0:
        return samples
    hops = -(-samples // hop)
    return hop * (-(-(hops + 1) // columns) * columns - 1)


def unfitted(options: SoundOptions) -> ComplexFacts | MelFacts:
    """The codec that the options describe, before it is fitted to data."""
    if options.codec == "complex":
        return ComplexFacts(fft=options.fft, hop=options.step, exponent=options.exponent, scale=1)
    return MelFacts(
        fft=options.fft,
        hop=options.step,
        mels=options.rows,
        low=options.low,
        high=options.highest,
        floor=options.fft / 4 * 10 ** (options.floor / 20),
        mean=0,
        std=1,
        vocoder=options.vocoder,
    )


def fitted(facts: SoundFacts, waveform: Tensor) -> SoundFacts:
    """The facts with a codec whose states of `waveform` `[B, C, L]` have unit variance and, for mel, zero mean."""
    state = representation(facts).state(waveform).double()
    if isinstance(facts.codec, ComplexFacts):
        scale = facts.codec.scale / state.square().mean().sqrt().clamp(min=1e-9).item()
        return facts.model_copy(update={"codec": facts.codec.model_copy(update={"scale": scale})})
    state = state * facts.codec.std + facts.codec.mean
    moments = {"mean": state.mean().item(), "std": max(state.std(correction=0).item(), 1e-3)}
    new: dict[str, Any] = {"codec": facts.codec.model_copy(update=moments)}
    if facts.coarse is not None:
        new["coarse"] = fitted(facts.smaller, waveform).codec
    return facts.model_copy(update=new)
