"""Loads sound files as examples, and accounts for what was changed and what cannot be used."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffcore.plugins.folders import UnusableError
from diffcore.plugins.ledger import Account
from diffcore_audio.data.files import pieces, read
from diffcore_audio.data.fitting import Format, SilentError, clipped, fit, fit_piece

_CLIPPED = "clipped: more than 0.1 % of their values are at full scale"


@dataclass(frozen=True)
class Loaded:
    """Examples from files.

    * `waveforms`: int16 `[N, C, L]`; `labels` `[N]`; `paths`: the file of each example.
    * `formats`: the sampling rate in Hz and the number of channels of each file that is used.
    * `seconds`: how long the files last, as far as their headers say, and how much of that is used.
    """

    waveforms: Tensor
    labels: Tensor
    paths: Sequence[Path]
    formats: Sequence[tuple[int, int]]
    seconds: tuple[float, float]


def load(files: Sequence[tuple[Path, int]], target: Format, account: Account, most: int = 1) -> Loaded:
    """The files that can be used, each as one example, or as at most `most` pieces. The account gets the others."""
    each, labels, paths, formats = [], [], [], []
    there = 0.0
    for path, label in files:
        try:
            found, rate, channels, frames = (_one if most == 1 else _several)(path, target, account, most)
        except UnusableError as reason:
            account.refuse(path, str(reason))
            continue
        except SilentError as reason:
            account.pass_over(path, str(reason))
            continue
        each += found
        labels += [label] * len(found)
        paths += [path] * len(found)
        formats.append((rate, channels))
        there += frames / rate
    waveforms = torch.stack(each) if each else torch.zeros(0, target.channels, target.samples, dtype=torch.int16)
    used = len(each) * target.samples / target.rate
    return Loaded(waveforms, torch.tensor(labels, dtype=torch.int64), paths, formats, (there, used))


def _one(path: Path, target: Format, account: Account, most: int) -> tuple[list[Tensor], int, int, int]:
    """The beginning of a file as an example; its rate, its channels and its length in samples."""
    sound = read(path, target.samples / target.rate + 1)
    example, changes = fit(sound, target)
    if clipped(sound.samples):
        account.note(path, _CLIPPED)
    for change in changes:
        account.change(path, change)
    return [example], sound.rate, len(sound.samples), max(sound.frames, sound.samples.shape[1])


def _several(path: Path, target: Format, account: Account, most: int) -> tuple[list[Tensor], int, int, int]:
    """At most `most` pieces of a file that are not silent; its rate, its channels and its length in samples."""
    examples: list[Tensor] = []
    changed: dict[str, None] = {}
    is_clipped, left_out = False, 0
    for sound in pieces(path, target.samples, target.rate):
        example, changes = fit_piece(sound, target)
        if example is None:
            left_out += 1
            continue
        changed |= dict.fromkeys(changes)
        is_clipped |= clipped(sound.samples)
        examples.append(example)
        if len(examples) == most:
            break
    if not examples:
        raise SilentError("silent, or shorter than half a piece")
    if is_clipped:
        account.note(path, _CLIPPED)
    if left_out:
        changed["cut into pieces, of which silent ones and a short last one are left out"] = None
    for change in changed:
        account.change(path, change)
    return examples, sound.rate, len(sound.samples), sound.frames
