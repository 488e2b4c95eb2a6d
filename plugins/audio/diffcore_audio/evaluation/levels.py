"""The levels of sounds, and metrics of them: loudness, decay, the noise that is left at the end, full scale."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from diffcore.plugins.output import Metric
from diffcore_audio.signals.waves import FULL_SCALE, SILENCE, peaks, rms_db

FALL = 40.0
"""In dB: sounds have decayed when their level is so far below its highest value."""

_WINDOW, _STEP = 0.01, 0.0025
"""Length of the windows in which levels are measured, and time from one to the next, in seconds."""

_END = 0.1
"""Duration in seconds of the end of a sound, in which its noise floor is measured."""

_MOST_LISTED = 8
"""The classes that the meaning of a metric lists at most."""

_QUIETEST_END = -100.0
"""In dBFS: the smallest noise floor that is returned; the rounding to 16 bits has -101 dBFS."""


@dataclass(frozen=True)
class Levels:
    """What is measured of `n` sounds, `[n]` each.

    * `rms`: the RMS level in dBFS.
    * `decay`: the time in seconds from the loudest moment to the last one that is less than 40 dB below it.
    * `floor`: the RMS level of the last 100 ms in dBFS, at least -100.
    * `full`: whether the sound reaches or exceeds full scale: a value that is rounded to the largest one of 16 bits.
    """

    rms: Tensor
    decay: Tensor
    floor: Tensor
    full: Tensor

    @classmethod
    def of(cls, parts: Iterable[Tensor], rate: int) -> "Levels":
        """The levels of finite waveforms `[B, C, L]` that come in parts."""
        found = [
            (rms_db(waves), decay(waves, rate), rms_db(waves[..., -max(1, round(_END * rate)) :]), peaks(waves))
            for waves in parts
        ]
        rms, time, floor, peak = (torch.cat(each) for each in zip(*found, strict=True))
        return cls(rms, time, floor.clamp(min=_QUIETEST_END), peak >= 1 - 1.5 / FULL_SCALE)


def decay(waves: Tensor, rate: int) -> Tensor:
    """The time from the loudest moment of `[B, C, L]` to the last one less than 40 dB below it, in seconds, `[B]`.

    Levels are powers averaged over the channels and over windows of 10 ms, every 2.5 ms. An amplitude that falls as
    e^(-t / tau) has tau ln 100. The time of a sound that is cut before it has decayed ends with the sound.
    """
    window, step = max(1, round(_WINDOW * rate)), max(1, round(_STEP * rate))
    power = waves.square().mean(1, keepdim=True)
    power = functional.avg_pool1d(functional.pad(power, (0, max(0, window - waves.shape[-1]))), window, step)[:, 0]
    highest, first = power.max(1, keepdim=True)
    sounding = power >= highest * 10 ** (-FALL / 10)
    last = power.shape[1] - 1 - sounding.flip(1).int().argmax(1)
    return (last - first[:, 0]).clamp(min=0).double() * step / rate


def level_metrics(
    sets: Mapping[str, tuple[Levels, Tensor | None]],
    reference: tuple[Levels, Tensor],
    classes: Sequence[str],
    meanings: Mapping[str, str],
) -> list[Metric]:
    """The metrics of the levels of several sets of sounds, each with the suffix of its name.

    * `sets`: for each suffix, the levels and the classes `[n]` of a set; the class `len(classes)`, or None for all, is
      that of sounds without one. The suffix of the samples is empty.
    * `reference`: the levels and the classes of the training sounds.
    * `meanings`: what the sets with other suffixes are.
    """
    metrics = []
    for name, meaning, measure in _MEASURES:
        for suffix, (levels, _) in sets.items():
            metrics.append(Metric(f"{name}{suffix}", measure(levels), meanings.get(suffix, meaning)))
    for suffix, (levels, labels) in sets.items():
        errors = decay_errors((levels, labels), reference, classes)
        if errors:
            worst = sorted(errors, key=lambda each: -abs(errors[each]))
            listed = ", ".join(f"{each} {errors[each]:+.0%}" for each in worst[:_MOST_LISTED])
            meaning = (
                "largest relative difference of the median time in which sounds of a class decay by 40 dB, from the "
                "training sounds"
            )
            metrics.append(
                Metric(f"decay_error{suffix}", abs(errors[worst[0]]), f"{meanings.get(suffix, meaning)}: {listed}")
            )
    return metrics


_MEASURES = (
    (
        "silence_rate",
        f"fraction of samples with an RMS below {SILENCE:g} dBFS",
        lambda levels: (levels.rms < SILENCE).double().mean().item(),
    ),
    ("rms_db", "median RMS of the samples in dBFS", lambda levels: levels.rms.median().item()),
    (
        "noise_floor_db",
        "median RMS of the last 100 ms of the samples in dBFS, at least -100",
        lambda levels: levels.floor.median().item(),
    ),
    (
        "full_scale",
        "fraction of samples that reach or exceed full scale, which are scaled down in 16-bit files",
        lambda levels: levels.full.double().mean().item(),
    ),
)
"""Name, meaning and function of the metrics that need no classes."""


def decay_errors(
    sounds: tuple[Levels, Tensor | None], reference: tuple[Levels, Tensor], classes: Sequence[str]
) -> dict[str, float]:
    """By class, (a - b) / b of the median decay a of `sounds` and the median b of `reference`, at least 2.5 ms each.

    Silent sounds are left out, and classes without audible sounds in one of both. Without `classes`, or where the
    sounds have none, all are one class.
    """
    (levels, labels), (real, real_labels) = sounds, reference
    names = ["all sounds"] if labels is None or not classes else list(classes)
    errors = {}
    for number, name in enumerate(names):
        each = [
            found.decay[(found.rms >= SILENCE) & (True if labels is None or not classes else own == number)]
            for found, own in ((levels, labels), (real, real_labels))
        ]
        if all(map(len, each)):
            times = [max(values.median().item(), _STEP) for values in each]
            errors[name] = times[0] / times[1] - 1
    return errors
