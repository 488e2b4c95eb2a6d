"""Loads sound files as examples, and accounts for what was changed and what cannot be used."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffcore.plugins.folders import UnusableError
from diffcore.plugins.ledger import Account
from diffcore_audio.data.files import read
from diffcore_audio.data.fitting import Format, SilentError, clipped, fit


def load(files: Sequence[tuple[Path, int]], target: Format, account: Account) -> tuple[Tensor, Tensor, list[Path]]:
    """Waveforms, int16 `[N, C, L]`, labels `[N]` and paths of the files that can be used.

    The account gets the others.
    """
    waveforms = torch.zeros(len(files), target.channels, target.samples, dtype=torch.int16)
    labels: list[int] = []
    used: list[Path] = []
    for path, label in files:
        try:
            sound = read(path)
            example, changes = fit(sound, target)
        except UnusableError as reason:
            account.refuse(path, str(reason))
            continue
        except SilentError as reason:
            account.pass_over(path, str(reason))
            continue
        if clipped(sound.samples):
            account.note(path, "clipped: more than 0.1 % of their values are at full scale")
        for change in changes:
            account.change(path, change)
        waveforms[len(labels)] = example
        labels.append(label)
        used.append(path)
    return waveforms[: len(labels)], torch.tensor(labels, dtype=torch.int64), used
