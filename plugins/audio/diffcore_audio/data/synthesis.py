"""Synthesises drums by simple physics: damped modes whose pitch falls, and filtered noise.

Each function returns `count` sounds of one instrument together with their random parameters, so that tests can compare
the two. Times are in seconds and frequencies in Hz; a decay is the time in which an amplitude falls to 1 / e.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy
from numpy import ndarray
from numpy.random import Generator

MEMBRANE = 1.593
"""Ratio of the first two frequencies of an ideal round membrane, from the zeros 3.832 of J1 and 2.405 of J0."""


@dataclass(frozen=True)
class Range:
    """The distribution of a parameter: uniform between `low` and `high`, or uniform in its logarithm."""

    low: float
    high: float
    logarithmic: bool = False

    def at(self, u: ndarray) -> ndarray:
        """The values at places u in the range, 0 to 1."""
        if self.logarithmic:
            return self.low * (self.high / self.low) ** u
        return self.low + (self.high - self.low) * u

    def place(self, values: ndarray) -> ndarray:
        """The places of values in the range, 0 to 1, of which random values are uniform."""
        if self.logarithmic:
            return numpy.log(values / self.low) / math.log(self.high / self.low)
        return (values - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Sounds:
    """Waveforms `[count, L]` and the parameters that they were synthesised with, `[count]` each."""

    waveform: ndarray
    parameters: dict[str, ndarray]


RANGES: Mapping[str, Mapping[str, Range]] = {
    "kick": {
        "pitch": Range(42, 70),
        "start": Range(120, 320, True),
        "sweep": Range(0.008, 0.035, True),
        "decay": Range(0.06, 0.18, True),
        "click": Range(0.02, 0.3, True),
        "brightness": Range(1000, 5000, True),
    },
    "snare": {
        "pitch": Range(150, 260),
        "decay": Range(0.02, 0.07, True),
        "wires": Range(0.3, 1.0, True),
        "wires_decay": Range(0.04, 0.14, True),
        "brightness": Range(3000, 7500, True),
    },
    "hihat": {
        "edge": Range(3500, 6000),
        "decay": Range(0.015, 0.25, True),
        "metal": Range(0.2, 1.0),
    },
    "tom": {
        "pitch": Range(80, 220, True),
        "bend": Range(1.1, 1.6),
        "sweep": Range(0.03, 0.08, True),
        "decay": Range(0.08, 0.2, True),
        "click": Range(0.02, 0.2, True),
    },
    "clap": {
        "pitch": Range(900, 2000, True),
        "spacing": Range(0.007, 0.014),
        "decay": Range(0.04, 0.15, True),
    },
    "cowbell": {
        "pitch": Range(450, 700, True),
        "interval": Range(1.44, 1.54),
        "decay": Range(0.06, 0.2, True),
        "brightness": Range(1500, 4000, True),
    },
}
"""The random parameters of the instruments: frequencies in Hz, decays in seconds, and amplitudes."""


def kick(rng: Generator, count: int, time: ndarray) -> Sounds:
    """A damped sine whose frequency falls from `start` to `pitch` with the time constant `sweep`, and a noise click."""
    parameters = _drawn(rng, count, RANGES["kick"])
    body = _falling_sine(time, **_select(parameters, "pitch", "start", "sweep")) * _decaying(time, parameters["decay"])
    click = _noise(rng, time, numpy.full(count, 300.0), parameters["brightness"]) * _decaying(time, 0.003)
    return Sounds(body + parameters["click"][:, None] * click, parameters)


def snare(rng: Generator, count: int, time: ndarray) -> Sounds:
    """The first two modes of a membrane, and the snare wires: noise above 1 kHz that decays more slowly."""
    parameters = _drawn(rng, count, RANGES["snare"])
    modes = _sine(time, parameters["pitch"]) * _decaying(time, parameters["decay"])
    modes += 0.6 * _sine(time, MEMBRANE * parameters["pitch"]) * _decaying(time, parameters["decay"] / 2)
    wires = _noise(rng, time, numpy.full(count, 1000.0), parameters["brightness"]) * _decaying(
        time, parameters["wires_decay"]
    )
    return Sounds(modes + parameters["wires"][:, None] * wires, parameters)


def hihat(rng: Generator, count: int, time: ndarray) -> Sounds:
    """Noise above `edge` with eight inharmonic tones; a short decay gives a closed hi-hat, a long one an open one."""
    parameters = _drawn(rng, count, RANGES["hihat"])
    tones = numpy.zeros((count, len(time[0])))
    for _ in range(8):
        tones += _sine(time, parameters["edge"] + rng.random(count) * (7800 - parameters["edge"]), rng.random(count))
    noise = _noise(rng, time, parameters["edge"], numpy.full(count, 1e9), order=4)
    return Sounds((noise + parameters["metal"][:, None] * tones / 2) * _decaying(time, parameters["decay"]), parameters)


def tom(rng: Generator, count: int, time: ndarray) -> Sounds:
    """The first two modes of a membrane, whose pitch falls with its tension after the stroke, and a dull click."""
    parameters = _drawn(rng, count, RANGES["tom"])
    pitch, start = parameters["pitch"], parameters["pitch"] * parameters["bend"]
    body = _falling_sine(time, pitch, start, parameters["sweep"]) * _decaying(time, parameters["decay"])
    second = _falling_sine(time, MEMBRANE * pitch, MEMBRANE * start, parameters["sweep"]) * _decaying(
        time, parameters["decay"] / 3
    )
    click = _noise(rng, time, numpy.full(count, 200.0), numpy.full(count, 1500.0)) * _decaying(time, 0.005)
    return Sounds(body + 0.3 * second + parameters["click"][:, None] * click, parameters)


def clap(rng: Generator, count: int, time: ndarray) -> Sounds:
    """Noise around `pitch`: three or four short bursts, `spacing` apart, of which the last has a longer decay."""
    ranges = RANGES["clap"]
    parameters = {
        **_drawn(rng, count, {name: ranges[name] for name in ("pitch", "spacing")}),
        "bursts": rng.integers(3, 5, count).astype(float),
        **_drawn(rng, count, {"decay": ranges["decay"]}),
    }
    envelope = numpy.zeros((count, len(time[0])))
    for number in range(4):
        later = time - (number * parameters["spacing"])[:, None]
        rest = parameters["bursts"][:, None] - number
        burst = numpy.where(rest == 1, 0.6 * _decaying(later, parameters["decay"]), 0) + _decaying(later, 0.004)
        envelope += numpy.where(rest > 0, burst, 0)
    return Sounds(envelope * _noise(rng, time, parameters["pitch"] * 0.7, parameters["pitch"] * 1.4), parameters)


def cowbell(rng: Generator, count: int, time: ndarray) -> Sounds:
    """Two band-passed square waves about a fifth apart, which decay fast at first and then slowly."""
    parameters = _drawn(rng, count, RANGES["cowbell"])
    tones = numpy.zeros((count, len(time[0])))
    for pitch in (parameters["pitch"], parameters["pitch"] * parameters["interval"]):
        for harmonic in (1, 3, 5, 7):
            frequency = harmonic * pitch
            strength = _band_gain(frequency, parameters["pitch"], parameters["brightness"]) / harmonic
            tones += strength[:, None] * _sine(time, frequency)
    return Sounds(tones * (0.6 * _decaying(time, 0.012) + 0.4 * _decaying(time, parameters["decay"])), parameters)


INSTRUMENTS: dict[str, Callable[[Generator, int, ndarray], Sounds]] = {
    instrument.__name__: instrument for instrument in (kick, snare, hihat, tom, clap, cowbell)
}


def synthesise(instrument: str, count: int, samples: int, rate: int, seed: int) -> Sounds:
    """`count` sounds of an instrument, float32 `[count, samples]`, with peaks between -14 and -1 dB of full scale.

    They begin within the first 10 ms (parameter `onset`) and fade out over the last 10 ms. `rate` must be at least
    16 kHz. Each instrument has a random generator of its own, so its sounds do not depend on the other instruments.
    """
    rng = numpy.random.default_rng([seed, list(INSTRUMENTS).index(instrument)])
    onset = Range(0, 0.01).at(rng.random(count))
    level = 10 ** (Range(-14, -1).at(rng.random(count)) / 20)
    time = numpy.arange(samples) / rate - onset[:, None]
    sounds = INSTRUMENTS[instrument](rng, count, time)
    waveform = sounds.waveform * numpy.clip((samples / rate - numpy.arange(samples) / rate) / 0.01, 0, 1)
    waveform *= (level / abs(waveform).max(1))[:, None]
    return Sounds(waveform.astype(numpy.float32), {**sounds.parameters, "onset": onset, "level": level})


def _drawn(rng: Generator, count: int, ranges: Mapping[str, Range]) -> dict[str, ndarray]:
    """`count` random values of each parameter."""
    return {name: each.at(rng.random(count)) for name, each in ranges.items()}


def _select(parameters: dict[str, ndarray], *names: str) -> dict[str, ndarray]:
    return {name: parameters[name] for name in names}


def _decaying(time: ndarray, decay: ndarray | float) -> ndarray:
    """exp(-time / decay), and 0 before time 0: `[count, L]`."""
    rate = 1 / (decay[:, None] if isinstance(decay, ndarray) else decay)
    return numpy.where(time >= 0, numpy.exp((-numpy.maximum(time, 0) * rate).astype(numpy.float32)), 0)


def _sine(time: ndarray, frequency: ndarray, phase: ndarray | float = 0.0) -> ndarray:
    """sin(2 pi (frequency time + phase)), with the phase in cycles: `[count, L]`."""
    phase = phase[:, None] if isinstance(phase, ndarray) else phase
    return _sine_of_cycles(frequency[:, None] * time + phase)


def _sine_of_cycles(cycles: ndarray) -> ndarray:
    """sin(2 pi cycles). float32 is several times as fast, and accurate enough once whole cycles are subtracted."""
    return numpy.sin((2 * numpy.pi * (cycles - numpy.floor(cycles))).astype(numpy.float32))


def _falling_sine(time: ndarray, pitch: ndarray, start: ndarray, sweep: ndarray) -> ndarray:
    """A sine of frequency pitch + (start - pitch) exp(-time / sweep); its phase is the integral of the frequency."""
    pitch, start, sweep = pitch[:, None], start[:, None], sweep[:, None]
    cycles = pitch * time + (start - pitch) * sweep * (1 - numpy.exp(-numpy.maximum(time, 0) / sweep))
    return _sine_of_cycles(cycles)


def _band_gain(frequency: ndarray, low: ndarray, high: ndarray, order: int = 2) -> ndarray:
    """Gain of a Butterworth high-pass at `low` and a low-pass at `high`, of that `order`."""
    safe = numpy.maximum(frequency, 1e-9)
    return 1 / numpy.sqrt((1 + (low / safe) ** (2 * order)) * (1 + (frequency / high) ** (2 * order)))


def _noise(rng: Generator, time: ndarray, low: ndarray, high: ndarray, order: int = 2) -> ndarray:
    """White noise that is band-limited to `low` to `high`, with unit variance: `[count, L]`."""
    count, samples = time.shape
    spectrum = numpy.fft.rfft(rng.standard_normal((count, samples), dtype=numpy.float32), axis=1)
    frequency = numpy.fft.rfftfreq(samples, time[0, 1] - time[0, 0])
    gain = _band_gain(frequency, low[:, None], high[:, None], order).astype(numpy.float32)
    noise = numpy.fft.irfft(spectrum * gain, samples, axis=1)
    return noise / noise.std(1, keepdims=True)
