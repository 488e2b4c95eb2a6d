"""The data sets: made, official formats, and a user's own folder.

All become int16 `waveform` `[N, C, L]`, full scale 32768, and int64 `label` `[N]`.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.errors import UserError, first_line
from diffcore.plugins import folders
from diffcore.plugins.data import Data
from diffcore_audio.data.files import SOUND_ENDINGS, Findings, Shape, load
from diffcore_audio.data.synthesis import INSTRUMENTS
from diffcore_audio.data.synthesis import drums as struck
from diffcore_audio.options import DrumsOptions, FileOptions, FolderOptions, SoundFacts, SoundOptions, SpeechOptions
from diffcore_audio.signals.representations import fitted, length, unfitted
from diffcore_audio.signals.waves import FULL_SCALE

_ENOUGH = 1000
"""Examples that a codec is fitted on. Its scale then is within 1 % of that of all 2,700 drums."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def examples(waveforms: Tensor, labels: Tensor) -> TensorDict:
    """Waveforms and labels as one batch."""
    return TensorDict({"waveform": waveforms.contiguous(), "label": labels.long()}, batch_size=[len(waveforms)])


def data(
    train: TensorDict,
    held_out: TensorDict | None,
    classes: Sequence[str],
    options: SoundOptions,
    notes: Sequence[str] = (),
) -> Data:
    """A `Data` whose codec is fitted on the training sounds, or on a thousand of them at even distances."""
    waveforms = train["waveform"]
    facts = SoundFacts(
        rate=options.rate,
        samples=waveforms.shape[2],
        channels=waveforms.shape[1],
        classes=tuple(classes),
        codec=unfitted(options),
        polarity=options.polarity,
    )
    some = torch.linspace(0, len(train) - 1, min(len(train), _ENOUGH)).round().long()
    return Data(fitted(facts, waveforms[some].float() / FULL_SCALE), train, held_out, tuple(notes))


def drums(options: DrumsOptions) -> Data:
    """Kicks, snares, hi-hats, toms, claps and cowbells, made as `diffcore_audio.data.synthesis` says."""
    made = [struck(name, options.sounds, length(options), options.rate, options.seed) for name in INSTRUMENTS]
    waveforms = torch.cat([(torch.from_numpy(each.waveform) * FULL_SCALE).round().to(torch.int16) for each in made])
    labels = torch.arange(len(INSTRUMENTS)).repeat_interleave(options.sounds)
    return data(*folders.split(examples(waveforms[:, None], labels), options.held_out), list(INSTRUMENTS), options)


def folder(options: FolderOptions) -> Data:
    """A folder of sounds, in one of the layouts of `diffcore.plugins.folders.tree`.

    Files that cannot be used raise a `UserError` that names them, or with `skip_unreadable` are left out and named in
    the notes; silent ones are left out and named.
    """
    tree = folders.tree(options.root, SOUND_ENDINGS, "folder", "sounds")
    shape = Shape(options.rate, length(options), options.channels, options.trim)
    (train, test), notes = _read([tree.train, tree.test or ()], shape, options)
    held_out = test if len(test) >= 2 else None
    if tree.test is None:
        train, held_out = folders.split(train, options.held_out)
    return data(train, held_out, tree.classes, options, [*notes, *_uneven(tree.classes, train, held_out)])


def _uneven(classes: Sequence[str], train: TensorDict, held_out: TensorDict | None) -> list[str]:
    """Notes on classes that have hardly any sounds, or that are not among those kept back."""
    counts = torch.bincount(train["label"], minlength=len(classes)).tolist()
    kept = counts if held_out is None else torch.bincount(held_out["label"], minlength=len(classes)).tolist()
    found = {
        "no training sound of": [name for name, count in zip(classes, counts, strict=False) if count == 0],
        "one training sound only of": [name for name, count in zip(classes, counts, strict=False) if count == 1],
        "no sound is kept back of": [name for name, count in zip(classes, kept, strict=False) if count == 0],
    }
    return [f"{what}: {folders.named(names)}" for what, names in found.items() if names]


def speech_commands(options: SpeechOptions) -> Data:
    """Speech Commands 2 (Warden 2018): 35 words, `root/SpeechCommands/speech_commands_v0.02`."""
    return _speech(options, None)


def sc09(options: SpeechOptions) -> Data:
    """The ten digits of Speech Commands, in the order of their values."""
    return _speech(options, _DIGITS)


def _speech(options: SpeechOptions, words: Sequence[str] | None) -> Data:
    """The set's own training and test lists; its validation list is left to those who choose models by it."""
    from torchaudio.datasets import SPEECHCOMMANDS

    root = options.root
    if root is None:
        raise UserError(
            "Speech Commands needs `data.root` PATH, the folder that holds it (or `data.download` to fetch it there)"
        )
    try:
        if options.download:
            Path(root).mkdir(parents=True, exist_ok=True)
        sets = [SPEECHCOMMANDS(root, download=options.download, subset=part) for part in ("training", "testing")]
    except (RuntimeError, OSError, EOFError) as error:
        told = first_line(error)
        if options.download:
            raise UserError(
                f"Speech Commands could not be fetched into {root} ({told}): "
                "is this machine offline? Give the folder that holds it with `data.root`"
            ) from None
        raise UserError(
            f"Speech Commands is not in {root} ({told}); "
            "give the folder that holds SpeechCommands/speech_commands_v0.02, or fetch it with `data.download`"
        ) from None
    lists = [[_place(each, number) for number in range(len(each))] for each in sets]
    found = [{path.parent.name for path in paths} for paths in lists]
    classes = list(words) if words else sorted(found[0])
    if missing := [name for name in classes if name not in found[0]]:
        raise UserError(f"Speech Commands in {root} has no training sounds of: {folders.named(missing)}")
    if not words and (strange := sorted(found[1] - found[0])):
        raise UserError(
            f"the test list of Speech Commands in {root} has words without training: {folders.named(strange)}"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    listings = [
        tuple((path, numbers[path.parent.name]) for path in paths if path.parent.name in numbers) for paths in lists
    ]
    (train, test), notes = _read(listings, Shape(options.rate, length(options), 1), options)
    held_out = test if len(test) >= 2 else None
    return data(train, held_out, classes, options, [*notes, *_uneven(classes, train, held_out)])


def _place(speech: Any, number: int) -> Path:
    """Where torchaudio finds a sound; to read it there would need torchcodec."""
    return Path(speech._archive) / speech.get_metadata(number)[0]


def _read(listings: Sequence[folders.Files], shape: Shape, options: FileOptions) -> tuple[list[TensorDict], list[str]]:
    """The examples of each listing, and notes on what was found; the first listing must give some."""
    findings = Findings()
    limited = [_limited(files, options.limit) for files in listings]
    total = sum(len(files) for files in limited)
    sets = [examples(*load(files, shape, findings)) for files in limited]

    def told(paths: Sequence[str], what: str) -> list[str]:
        return [f"{len(paths)} of the {total} sounds under {options.root} {what}: {folders.named(paths)}"] * bool(paths)

    notes = folders.left_out(findings.unusable, total, options.root, "sounds", options.skip_unreadable)
    notes += [f"left out: {note}" for note in told(findings.silent, "are silent (below -60 dB)")]
    if not len(sets[0]):
        raise UserError(f"no training sound under {options.root} can be used; {'; '.join(notes)}")
    notes += told(findings.clipped, "are clipped (more than 0.1 % of their values are at full scale)")
    return sets, notes


def _limited(files: folders.Files, limit: int | None) -> folders.Files:
    """The first `limit` files of each class."""
    if limit is None:
        return files
    number = {label: itertools.count() for _, label in files}
    return tuple((path, label) for path, label in files if next(number[label]) < limit)
