"""The loudness of sounds over time: measured, standardised, and as text."""

from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore_audio.options import EnvelopeFacts
from diffcore_audio.signals.waves import decibels

_MOST_BYTES = 2**24
"""The largest file of an envelope that is read."""


def envelope(waves: Tensor, facts: EnvelopeFacts) -> Tensor:
    """The loudness `[B, K]` of finite waveforms `[B, C, L]` in dBFS, at least the floor of the facts.

    Frame k of K is 10 log10 of the mean of x^2 over the channels and over the samples from k L / K to (k + 1) L / K,
    both rounded. A full-scale sine has -3.01 dBFS.
    """
    sums = waves.double().square().mean(1).cumsum(1)
    sums = torch.cat([torch.zeros_like(sums[:, :1]), sums], 1)
    edges = torch.linspace(0, waves.shape[2], facts.frames + 1, dtype=torch.float64, device=waves.device).round().long()
    power = sums[:, edges].diff(dim=1) / edges.diff().clamp(min=1)
    return decibels(power, facts.floor).float()


def standardised(levels: Tensor, facts: EnvelopeFacts) -> Tensor:
    """Loudness in dB as states have it, of zero mean and unit variance."""
    return (levels - facts.mean) / facts.std


def restored(state: Tensor, facts: EnvelopeFacts) -> Tensor:
    """The loudness in dB of a state, at least the floor."""
    return (state * facts.std + facts.mean).clamp(min=facts.floor)


def times(frames: int, seconds: float) -> Tensor:
    """The middles of the frames of a sound, in seconds."""
    return (torch.arange(frames, dtype=torch.float64) + 0.5) * seconds / frames


def as_text(levels: Tensor, seconds: float) -> str:
    """A table of loudness `[K]` over time: a row for each frame, with the time of its middle and its level in dB."""
    rows = zip(times(len(levels), seconds).tolist(), levels.tolist(), strict=True)
    return "".join(["seconds,db\n", *(f"{time:.5g},{level:.2f}\n" for time, level in rows)])


def read_text(path: Path, facts: EnvelopeFacts, seconds: float) -> Tensor:
    """The envelopes `[m, K]` in a table of numbers: seconds in the first column, and dB in each other one.

    A table of one column has levels at equal distances over the whole length. Between rows, levels are interpolated;
    before the first and after the last, they stay. A first line of words is passed over. Raises `UserError` for files
    that are no such table.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES // 2**20} MB")
        lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        rows = numpy.array(_numbers(lines), dtype=float)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be used: {_reason(error)}") from None
    if rows.shape[1] == 1:
        middle = times(len(rows), seconds).numpy()
        rows = numpy.concatenate([middle[:, None], rows], 1)
    if not (numpy.diff(rows[:, 0]) > 0).all():
        raise UserError(f"{path} cannot be used: its first column are the seconds, which must rise from row to row")
    wanted = times(facts.frames, seconds).numpy()
    levels = numpy.stack([numpy.interp(wanted, rows[:, 0], column) for column in rows[:, 1:].T])
    return torch.from_numpy(levels).float().clamp(min=facts.floor, max=0.0)


def _numbers(lines: Sequence[str]) -> list[list[float]]:
    """The numbers of the lines, of which the first may be words. Raises `ValueError`."""
    rows: list[list[float]] = []
    for number, line in enumerate(lines):
        words = line.replace(";", ",").replace("\t", ",").split(",")
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            if number:
                raise ValueError(f"line {number + 1} is not numbers") from None
    if not rows:
        raise ValueError("no numbers")
    if len({len(row) for row in rows}) > 1:
        raise ValueError("rows of different lengths")
    if not numpy.isfinite(rows).all():
        raise ValueError("numbers that are not finite")
    return rows


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or "it cannot be read") if isinstance(error, OSError) else str(error)
