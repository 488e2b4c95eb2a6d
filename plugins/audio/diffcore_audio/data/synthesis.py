"""Drums by simple physics: damped modes whose pitch falls, and shaped noise.

Each function draws `count` sounds of one instrument and gives them together with what was drawn, so that both can be
compared. Times are in seconds, frequencies in Hz; a decay is the time in which an amplitude falls to 1 / e.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy
from numpy import ndarray
from numpy.random import Generator

MEMBRANE = 1.593
"""Second over first frequency of an ideal round membrane: the zeros 3.832 of J1 and 2.405 of J0."""


@dataclass(frozen=True)
class Struck:
    """Sounds `waveform` `[count, L]` before levels are set, and the drawn parameters, `[count]` each."""

    waveform: ndarray
    drawn: dict[str, ndarray]


def kick(rng: Generator, count: int, time: ndarray) -> Struck:
    """A damped sine whose frequency falls from `start` to `pitch` in the time `sweep`, and a click of noise."""
    drawn = {
        "pitch": _even(rng, count, 42, 70),
        "start": _ratio(rng, count, 120, 320),
        "sweep": _ratio(rng, count, 0.008, 0.035),
        "decay": _ratio(rng, count, 0.06, 0.18),
        "click": _ratio(rng, count, 0.02, 0.3),
        "brightness": _ratio(rng, count, 1000, 5000),
    }
    body = _falling(time, **_of(drawn, "pitch", "start", "sweep")) * _damped(time, drawn["decay"])
    click = _noise(rng, time, numpy.full(count, 300.0), drawn["brightness"]) * _damped(time, 0.003)
    return Struck(body + drawn["click"][:, None] * click, drawn)


def snare(rng: Generator, count: int, time: ndarray) -> Struck:
    """The first two modes of a membrane, and the wires: noise above 1 kHz that lasts longer."""
    drawn = {
        "pitch": _even(rng, count, 150, 260),
        "decay": _ratio(rng, count, 0.02, 0.07),
        "wires": _ratio(rng, count, 0.3, 1.0),
        "wires_decay": _ratio(rng, count, 0.04, 0.14),
        "brightness": _ratio(rng, count, 3000, 7500),
    }
    modes = _sine(time, drawn["pitch"]) * _damped(time, drawn["decay"])
    modes += 0.6 * _sine(time, MEMBRANE * drawn["pitch"]) * _damped(time, drawn["decay"] / 2)
    wires = _noise(rng, time, numpy.full(count, 1000.0), drawn["brightness"]) * _damped(time, drawn["wires_decay"])
    return Struck(modes + drawn["wires"][:, None] * wires, drawn)


def hihat(rng: Generator, count: int, time: ndarray) -> Struck:
    """Noise above `edge` and eight inharmonic tones in it; closed and open by the decay."""
    drawn = {
        "edge": _even(rng, count, 3500, 6000),
        "decay": _ratio(rng, count, 0.015, 0.25),
        "metal": _even(rng, count, 0.2, 1.0),
    }
    tones = numpy.zeros((count, len(time[0])))
    for _ in range(8):
        tones += _sine(time, drawn["edge"] + rng.random(count) * (7800 - drawn["edge"]), rng.random(count))
    noise = _noise(rng, time, drawn["edge"], numpy.full(count, 1e9), order=4)
    return Struck((noise + drawn["metal"][:, None] * tones / 2) * _damped(time, drawn["decay"]), drawn)


def tom(rng: Generator, count: int, time: ndarray) -> Struck:
    """The first two modes of a membrane, whose tension and pitch fall after the blow, and a dull click."""
    drawn = {
        "pitch": _ratio(rng, count, 80, 220),
        "bend": _even(rng, count, 1.1, 1.6),
        "sweep": _ratio(rng, count, 0.03, 0.08),
        "decay": _ratio(rng, count, 0.08, 0.2),
        "click": _ratio(rng, count, 0.02, 0.2),
    }
    pitch, start = drawn["pitch"], drawn["pitch"] * drawn["bend"]
    body = _falling(time, pitch, start, drawn["sweep"]) * _damped(time, drawn["decay"])
    second = _falling(time, MEMBRANE * pitch, MEMBRANE * start, drawn["sweep"]) * _damped(time, drawn["decay"] / 3)
    click = _noise(rng, time, numpy.full(count, 200.0), numpy.full(count, 1500.0)) * _damped(time, 0.005)
    return Struck(body + 0.3 * second + drawn["click"][:, None] * click, drawn)


def clap(rng: Generator, count: int, time: ndarray) -> Struck:
    """Noise around `pitch`: three or four short bursts, `spacing` apart, the last one with a tail."""
    drawn = {
        "pitch": _ratio(rng, count, 900, 2000),
        "spacing": _even(rng, count, 0.007, 0.014),
        "bursts": rng.integers(3, 5, count).astype(float),
        "decay": _ratio(rng, count, 0.04, 0.15),
    }
    envelope = numpy.zeros((count, len(time[0])))
    for number in range(4):
        later = time - (number * drawn["spacing"])[:, None]
        rest = drawn["bursts"][:, None] - number
        burst = numpy.where(rest == 1, 0.6 * _damped(later, drawn["decay"]), 0) + _damped(later, 0.004)
        envelope += numpy.where(rest > 0, burst, 0)
    return Struck(envelope * _noise(rng, time, drawn["pitch"] * 0.7, drawn["pitch"] * 1.4), drawn)


def cowbell(rng: Generator, count: int, time: ndarray) -> Struck:
    """Two square tones about a fifth apart through a band-pass; they die off quickly at first, then slowly."""
    drawn = {
        "pitch": _ratio(rng, count, 450, 700),
        "interval": _even(rng, count, 1.44, 1.54),
        "decay": _ratio(rng, count, 0.06, 0.2),
        "brightness": _ratio(rng, count, 1500, 4000),
    }
    tones = numpy.zeros((count, len(time[0])))
    for pitch in (drawn["pitch"], drawn["pitch"] * drawn["interval"]):
        for harmonic in (1, 3, 5, 7):
            frequency = harmonic * pitch
            strength = _band(frequency, drawn["pitch"], drawn["brightness"]) / harmonic
            tones += strength[:, None] * _sine(time, frequency)
    return Struck(tones * (0.6 * _damped(time, 0.012) + 0.4 * _damped(time, drawn["decay"])), drawn)


INSTRUMENTS: dict[str, Callable[[Generator, int, ndarray], Struck]] = {
    instrument.__name__: instrument for instrument in (kick, snare, hihat, tom, clap, cowbell)
}


def drums(instrument: str, count: int, samples: int, rate: int, seed: int) -> Struck:
    """`count` sounds of an instrument, float32 `[count, samples]`, peaks between -14 and -1 dB of full scale.

    They begin within the first 10 ms (`onset`) and fade out over the last 10 ms. `rate` is 16 kHz at least.
    Each instrument has random numbers of its own, so none depends on how many sounds the others have.
    """
    rng = numpy.random.default_rng([seed, list(INSTRUMENTS).index(instrument)])
    onset = _even(rng, count, 0, 0.01)
    level = 10 ** (_even(rng, count, -14, -1) / 20)
    time = numpy.arange(samples) / rate - onset[:, None]
    struck = INSTRUMENTS[instrument](rng, count, time)
    waveform = struck.waveform * numpy.clip((samples / rate - numpy.arange(samples) / rate) / 0.01, 0, 1)
    waveform *= (level / abs(waveform).max(1))[:, None]
    return Struck(waveform.astype(numpy.float32), {**struck.drawn, "onset": onset, "level": level})


def _even(rng: Generator, count: int, low: float, high: float) -> ndarray:
    """Uniform between the two."""
    return low + (high - low) * rng.random(count)


def _ratio(rng: Generator, count: int, low: float, high: float) -> ndarray:
    """Log-uniform between the two."""
    return low * (high / low) ** rng.random(count)


def _of(drawn: dict[str, ndarray], *names: str) -> dict[str, ndarray]:
    return {name: drawn[name] for name in names}


def _damped(time: ndarray, decay: ndarray | float) -> ndarray:
    """exp(-time / decay), and nothing before time 0: `[count, L]`."""
    rate = 1 / (decay[:, None] if isinstance(decay, ndarray) else decay)
    return numpy.where(time >= 0, numpy.exp((-numpy.maximum(time, 0) * rate).astype(numpy.float32)), 0)


def _sine(time: ndarray, frequency: ndarray, turns: ndarray | float = 0.0) -> ndarray:
    turned = turns[:, None] if isinstance(turns, ndarray) else turns
    return _sine_of(frequency[:, None] * time + turned)


def _sine_of(turns: ndarray) -> ndarray:
    """sin(2 pi turns). float32 is several times as fast, and exact enough once whole turns are taken off."""
    return numpy.sin((2 * numpy.pi * (turns - numpy.floor(turns))).astype(numpy.float32))


def _falling(time: ndarray, pitch: ndarray, start: ndarray, sweep: ndarray) -> ndarray:
    """A sine of frequency pitch + (start - pitch) exp(-time / sweep); its phase is the integral of that."""
    pitch, start, sweep = pitch[:, None], start[:, None], sweep[:, None]
    turns = pitch * time + (start - pitch) * sweep * (1 - numpy.exp(-numpy.maximum(time, 0) / sweep))
    return _sine_of(turns)


def _band(frequency: ndarray, low: ndarray, high: ndarray, order: int = 2) -> ndarray:
    """Gain of Butterworth filters that cut below `low` and above `high`."""
    safe = numpy.maximum(frequency, 1e-9)
    return 1 / numpy.sqrt((1 + (low / safe) ** (2 * order)) * (1 + (frequency / high) ** (2 * order)))


def _noise(rng: Generator, time: ndarray, low: ndarray, high: ndarray, order: int = 2) -> ndarray:
    """White noise between `low` and `high`, of unit variance: `[count, L]`."""
    count, samples = time.shape
    spectrum = numpy.fft.rfft(rng.standard_normal((count, samples), dtype=numpy.float32), axis=1)
    frequency = numpy.fft.rfftfreq(samples, time[0, 1] - time[0, 0])
    gain = _band(frequency, low[:, None], high[:, None], order).astype(numpy.float32)
    noise = numpy.fft.irfft(spectrum * gain, samples, axis=1)
    return noise / noise.std(1, keepdims=True)
