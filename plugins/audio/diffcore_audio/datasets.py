"""The data sets: made, official formats, and a user's own folder.

All become int16 `waveform` `[N, C, L]`, full scale 32768, and int64 `label` `[N]`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.data import Data
from diffcore.errors import UserError
from diffcore_audio.codec import FULL_SCALE
from diffcore_audio.files import SOUND_ENDINGS, Findings, Shape, load
from diffcore_audio.options import DrumsOptions, FileOptions, FolderOptions, SoundFacts, SoundOptions, SpeechOptions
from diffcore_audio.representations import fitted, length, unfitted
from diffcore_audio.synthesis import INSTRUMENTS
from diffcore_audio.synthesis import drums as struck

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


def split(everything: TensorDict, share: float) -> tuple[TensorDict, TensorDict | None]:
    """Keep back a share of the examples, evenly over the classes, the same ones each time. None where too few.

    A class of a single example stays in training.
    """
    labels = everything["label"]
    order = torch.argsort(labels, stable=True)
    order = order[torch.bincount(labels)[labels[order]] > 1]
    counts = torch.floor(share * torch.arange(len(order) + 1, dtype=torch.float64) + 1e-9)
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[order[counts.diff() > 0]] = True
    if held.sum() < 2:
        return everything, None
    return everything[~held], everything[held]


def drums(options: DrumsOptions) -> Data:
    """Kicks, snares, hi-hats, toms, claps and cowbells, made as `diffcore_audio.synthesis` says."""
    made = [struck(name, options.sounds, length(options), options.rate, options.seed) for name in INSTRUMENTS]
    waveforms = torch.cat([(torch.from_numpy(each.waveform) * FULL_SCALE).round().to(torch.int16) for each in made])
    labels = torch.arange(len(INSTRUMENTS)).repeat_interleave(options.sounds)
    return data(*split(examples(waveforms[:, None], labels), options.held_out), list(INSTRUMENTS), options)


def folder(options: FolderOptions) -> Data:
    """A folder of class folders of sounds, or of sounds without classes.

    `train` and `test` folders above the classes are used where both are there. Files that cannot be used raise a
    `UserError` that names them, or with `skip_unreadable` are left out and named in the notes; silent ones are left
    out and named.
    """
    if options.root is None:
        raise UserError("the data set 'folder' needs --data.root PATH, a folder of sounds or of class folders")
    root = options.root
    if not root.is_dir():
        raise UserError(f"no folder {root}: --data.root must be a folder of sounds or of class folders")
    parts = [root / "train", root / "test"]
    if not all(part.is_dir() for part in parts):
        parts = [root]
    listings = [_listing(part) for part in parts]
    for part, (_, files) in zip(parts, listings, strict=True):
        if not files:
            raise UserError(
                f"no sounds under {part}{_other_endings(part)}: expected class folders of sounds, or sounds "
                "(WAV, FLAC, OGG, AIFF, MP3, …)"
            )
    classes = listings[0][0]
    if len(parts) == 2 and listings[1][0] != classes:
        raise UserError(f"{parts[1]} has other classes than {parts[0]}: {_apart(listings[1][0], classes)}")
    shape = Shape(options.rate, length(options), options.channels, options.trim)
    (train, *test), notes = _read([files for _, files in listings], shape, root, options)
    held_out: TensorDict | None
    if test:
        (held_out,) = test
        held_out = held_out if len(held_out) >= 2 else None
    else:
        train, held_out = split(train, options.held_out)
    counts = torch.bincount(train["label"], minlength=len(classes))
    if lonely := [name for name, count in zip(classes, counts.tolist(), strict=False) if count == 1]:
        notes.append(f"one training sound only: {_named(lonely)}")
    if empty := [name for name, count in zip(classes, counts.tolist(), strict=False) if count == 0]:
        notes.append(f"no training sound that can be used: {_named(empty)}")
    return data(train, held_out, classes, options, notes)


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
            "Speech Commands needs --data.root PATH, the folder that holds it (or --data.download to fetch it there)"
        )
    try:
        if options.download:
            root.mkdir(parents=True, exist_ok=True)
        sets = [SPEECHCOMMANDS(root, download=options.download, subset=part) for part in ("training", "testing")]
    except (RuntimeError, OSError, EOFError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        if options.download:
            raise UserError(
                f"Speech Commands could not be fetched into {root} ({told}): "
                "is this machine offline? Give the folder that holds it with --data.root"
            ) from None
        raise UserError(
            f"Speech Commands is not in {root} ({told}); "
            "give the folder that holds SpeechCommands/speech_commands_v0.02, or fetch it with --data.download"
        ) from None
    listings = [[root / _of(each, number)[0] for number in range(len(each))] for each in sets]
    found = [{path.parent.name for path in paths} for paths in listings]
    classes = list(words) if words else sorted(found[0])
    if missing := [name for name in classes if name not in found[0]]:
        raise UserError(f"Speech Commands in {root} has no training sounds of: {_named(missing)}")
    if not words and (strange := sorted(found[1] - found[0])):
        raise UserError(f"the test list of Speech Commands in {root} has words without training: {_named(strange)}")
    numbers = {name: number for number, name in enumerate(classes)}
    files = [[(path, numbers[path.parent.name]) for path in paths if path.parent.name in numbers] for paths in listings]
    (train, test), notes = _read(files, Shape(options.rate, length(options), 1), root, options)
    return data(train, test if len(test) >= 2 else None, classes, options, notes)


def _of(speech: Iterable, number: int) -> tuple[Path, ...]:
    """Where torchaudio finds a sound; reading it there would need torchcodec."""
    return (Path("SpeechCommands") / speech.get_metadata(number)[0],)  # type: ignore[attr-defined]


def _read(
    listings: Sequence[Sequence[tuple[Path, int]]], shape: Shape, root: Path, options: FileOptions
) -> tuple[list[TensorDict], list[str]]:
    """The examples of each listing, and notes on what was found; the first listing must give some."""
    findings = Findings()
    limited = [_limited(files, options.limit) for files in listings]
    count = sum(len(files) for files in limited)
    sets = [examples(*load(files, shape, findings)) for files in limited]
    notes = []
    if findings.unusable:
        told = (
            f"{len(findings.unusable)} of the {count} sounds under {root} cannot be used: {_named(findings.unusable)}"
        )
        if not options.skip_unreadable:
            raise UserError(f"{told}; mend or remove them, or leave them out with --data.skip-unreadable")
        notes.append(f"left out: {told}")
    if findings.silent:
        notes.append(
            f"left out: {len(findings.silent)} of the {count} sounds under {root} are silent (below -60 dB): "
            f"{_named(findings.silent)}"
        )
    if not len(sets[0]):
        raise UserError(f"none of the {count} sounds under {root} can be used; {'; '.join(notes)}")
    if findings.clipped:
        notes.append(
            f"{len(findings.clipped)} of the {count} sounds under {root} are clipped (more than 0.1 % of their samples "
            f"are at full scale): {_named(findings.clipped)}"
        )
    return sets, notes


def _listing(root: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Names of classes, and sound files with their class's index; no classes where sounds lie in `root` itself."""

    def is_sound(path: Path) -> bool:
        return path.suffix.lower() in SOUND_ENDINGS and not path.name.startswith(".") and path.is_file()

    def sounds(place: Path) -> list[Path]:
        return sorted(path for path in place.rglob("*") if is_sound(path))

    classes = sorted(place.name for place in root.iterdir() if place.is_dir() and sounds(place))
    if not classes or any(is_sound(path) for path in root.iterdir()):
        return [], [(path, 0) for path in sounds(root)]
    return classes, [(path, index) for index, name in enumerate(classes) for path in sounds(root / name)]


def _limited(files: Sequence[tuple[Path, int]], limit: int | None) -> list[tuple[Path, int]]:
    """The first `limit` files of each class."""
    seen: Counter[int] = Counter()
    kept = []
    for path, label in files:
        seen[label] += 1
        if limit is None or seen[label] <= limit:
            kept.append((path, label))
    return kept


def _other_endings(root: Path) -> str:
    """What else is there, in words: ` (12 files with other endings: .txt, .asd)`."""
    others = [path for path in root.rglob("*") if path.is_file()]
    if not others:
        return ""
    endings = sorted({path.suffix.lower() or "none" for path in others})
    return f" ({len(others)} files with other endings: {_named(endings)})"


def _apart(classes: Sequence[str], others: Sequence[str]) -> str:
    more, fewer = sorted(set(classes) - set(others)), sorted(set(others) - set(classes))
    return "; ".join([f"beside them {_named(more)}"] * bool(more) + [f"without {_named(fewer)}"] * bool(fewer))


def _named(names: Sequence[str], shown: int = 10) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
