"""Measures pitch, length and brightness of sounds, and says in the words of the sentences what they are.

Nothing here is trained. Which of two values a sound has follows from one number, which is compared with the median of
the same number of synthesised sounds of its instrument:

| attribute | number |
|---|---|
| pitch | the frequency of the strongest partial, in Hz; of the cowbell, of the lower one of its two strongest |
| length | the time in which the amplitude falls to 1 / e, in seconds |
| brightness | the frequency below which a part of the power lies, in Hz |
"""

import math
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from diffcore.plugins.wordings import UNSAID
from diffcore_audio.data.synthesis import INSTRUMENTS, synthesise
from diffcore_audio.described.sentences import WORDINGS
from diffcore_audio.signals.waves import SILENCE, finite, rms_db

_REFERENCES, _SEED = 101, 1_000_003
"""The number of synthesised sounds of each instrument that sounds are compared with, and their seed."""

_FALL = 25.0
"""The decay is measured until the level is so many dB below that at its start."""


def judge(waves: Tensor, instruments: Tensor, rate: int) -> dict[str, Tensor]:
    """The values of sounds, int64 `[N]` by attribute of `diffcore_audio.described.sentences.WORDINGS`.

    * `waves`: waveforms `[N, C, L]`, of which the channels are averaged.
    * `instruments`: the number of the instrument of each sound, `[N]`, which is taken as it is.

    Sounds are at least `diffcore_audio.options.LEAST_DESCRIBED` long. Silent ones, and attributes that are not measured
    of an instrument, have the value `UNSAID`.
    """
    values = {name: torch.full((len(waves),), UNSAID) for name in WORDINGS}
    values["instrument"] = instruments
    audible = rms_db(finite(waves)[0]) >= SILENCE
    for number, instrument in enumerate(INSTRUMENTS):
        rows = ((instruments == number) & audible).nonzero()[:, 0]
        if len(rows):
            found = measured(waves[rows], instrument, rate)
            for name, limit in _medians(instrument, waves.shape[-1], rate).items():
                values[name][rows] = (found[name] > limit).long()
    return values


@cache
def _medians(instrument: str, samples: int, rate: int) -> dict[str, float]:
    """The medians of what is measured of synthesised sounds of an instrument."""
    sounds = torch.from_numpy(synthesise(instrument, _REFERENCES, samples, rate, _SEED).waveform)
    return {name: value.median().item() for name, value in measured(sounds[:, None], instrument, rate).items()}


def measured(waves: Tensor, instrument: str, rate: int) -> dict[str, Tensor]:
    """The numbers that are measured of sounds `[N, C, L]` of an instrument, float `[N]` by attribute."""
    mono = finite(waves)[0].float().mean(1)
    return {name: measure(mono, rate) for name, measure in _MEASURES[instrument].items()}


def decay(waves: Tensor, rate: int, low: float = 0.0, high: float = math.inf, after: float = 0.02) -> Tensor:
    """The time in seconds in which the amplitude of the band from `low` to `high` falls to 1 / e, `[N]`.

    It is that of the straight line through the levels in dB of windows of 10 ms, fitted by least squares from `after`
    seconds behind the loudest one until they have fallen by 25 dB.
    """
    window, step = round(0.01 * rate), round(0.0025 * rate)
    power = _band(waves, rate, low, high).square().unfold(-1, window, step).mean(-1)
    level = 10 * power.clamp(min=1e-14).log10()
    number = torch.arange(level.shape[1])
    start = (level.argmax(1) + round(after * rate / step)).clamp(max=level.shape[1] - 2)[:, None]
    later = (number >= start) & (number * step + window < waves.shape[-1] - 0.012 * rate)  # without the fade at the end
    fallen = ((level < level.gather(1, start) - _FALL) & later).cumsum(1) > 0
    weight = (later & ~fallen).double()
    time = number * step / rate
    total = weight.sum(1, keepdim=True).clamp(min=1)
    centred = time - (weight * time).sum(1, keepdim=True) / total
    variance = (weight * centred.square()).sum(1).clamp(min=1e-12)
    slope = (weight * centred * level).sum(1) / variance  # in dB per second
    return 20 / math.log(10) / (-slope).clamp(min=1e-3)


def partial_between(waves: Tensor, rate: int, low: float, high: float, after: float = 0.0) -> Tensor:
    """The frequency in Hz of the strongest partial from `low` to `high`, from `after` seconds on, `[N]`."""
    frequency, power = _spectrum(waves[:, round(after * rate) :], rate)
    return frequency[_within(frequency, power, low, high).argmax(1)]


def lower_of_two(waves: Tensor, rate: int) -> Tensor:
    """The frequency in Hz, 440 to 710, that is the strongest together with one 1.42 to 1.56 times as high, `[N]`.

    A cowbell has two such partials. Strong together means a large product of their powers.
    """
    frequency, power = _spectrum(waves, rate)
    level = power.clamp(min=1e-20).log()
    candidates = ((frequency >= 440) & (frequency <= 710)).nonzero()[:, 0]
    both = [
        level[:, lower] + level[:, int(1.42 * lower) : int(1.56 * lower) + 1].amax(1) for lower in candidates.tolist()
    ]
    return frequency[candidates[torch.stack(both, 1).argmax(1)]]


def power_below(waves: Tensor, rate: int, part: float, low: float) -> Tensor:
    """The frequency in Hz below which the `part` of the power above `low` lies, `[N]`."""
    frequency, power = _spectrum(waves, rate)
    summed = _within(frequency, power, low, math.inf).double().cumsum(1)
    place = (summed < part * summed[:, -1:]).sum(1)
    return frequency[place.clamp(max=len(frequency) - 1)]


def _band(waves: Tensor, rate: int, low: float, high: float) -> Tensor:
    """The waveforms with only the frequencies from `low` to `high`."""
    size = 2 * waves.shape[-1]
    kept = _within(torch.fft.rfftfreq(size, 1 / rate), torch.fft.rfft(waves, size), low, high)
    return torch.fft.irfft(kept, size)[:, : waves.shape[-1]]


def _spectrum(waves: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Frequencies `[F]` in Hz and powers `[N, F]` of waveforms that are faded out, at a quarter of their resolution."""
    n = waves.shape[-1]
    faded = waves * torch.hann_window(2 * n)[n:]
    return torch.fft.rfftfreq(4 * n, 1 / rate), torch.fft.rfft(faded, 4 * n).abs().square()


def _within(frequency: Tensor, values: Tensor, low: float, high: float) -> Tensor:
    return values * ((frequency >= low) & (frequency <= high))


Measure = Callable[[Tensor, int], Tensor]
_MEASURES: Mapping[str, Mapping[str, Measure]] = {
    "kick": {
        "pitch": lambda waves, rate: partial_between(waves, rate, 30, 110, after=0.08),
        "length": lambda waves, rate: decay(waves, rate, high=400),
    },
    "snare": {
        "pitch": lambda waves, rate: partial_between(waves, rate, 100, 320),
        "length": lambda waves, rate: decay(waves, rate, low=1500),
        "brightness": lambda waves, rate: power_below(waves, rate, 0.85, low=1000),
    },
    "hihat": {
        "length": lambda waves, rate: decay(waves, rate, low=2000),
        "brightness": lambda waves, rate: power_below(waves, rate, 0.05, low=2000),
    },
    "tom": {
        "pitch": lambda waves, rate: partial_between(waves, rate, 50, 380, after=0.03),
        "length": lambda waves, rate: decay(waves, rate, high=600),
    },
    "clap": {
        "length": lambda waves, rate: decay(waves, rate),
        "brightness": lambda waves, rate: power_below(waves, rate, 0.5, low=200),
    },
    "cowbell": {
        "pitch": lower_of_two,
        "length": lambda waves, rate: decay(waves, rate, low=300, after=0.04),
    },
}
"""What is measured of each instrument, in the band where it is heard."""
