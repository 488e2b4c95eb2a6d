"""The data sets of sounds: synthesised drums, Speech Commands, and a user's own folder.

All have int16 `waveform` `[N, C, L]`, with full scale at 32768, and int64 `label` `[N]`.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.errors import UserError, first_line
from diffcore.plugins import folders
from diffcore.plugins.captions import NO_CAPTIONS, FileCaptions
from diffcore.plugins.data import Data
from diffcore.plugins.ledger import Account, named
from diffcore.plugins.text import indexed
from diffcore.states.noise import generator_for
from diffcore.system.walk import TWICE
from diffcore_audio.data.files import CONVERTIBLE, SOUND_ENDINGS
from diffcore_audio.data.fitting import Format
from diffcore_audio.data.loading import Loaded, load
from diffcore_audio.data.synthesis import INSTRUMENTS, synthesise
from diffcore_audio.described.sentences import values_of, write
from diffcore_audio.options import (
    DrumsOptions,
    EnvelopeFacts,
    FileOptions,
    FolderOptions,
    SoundFacts,
    SoundOptions,
    SpeechOptions,
)
from diffcore_audio.signals.envelopes import envelope
from diffcore_audio.signals.representations import fitted, length, unfitted
from diffcore_audio.signals.waves import FULL_SCALE, floats

_FIT_EXAMPLES = 1000
"""Examples that a codec is fitted to at most. The scale is then within 1 % of the one of all 2,700 drums."""

WORDINGS_EACH = 2
"""Sentences of each synthesised training sound, of which training draws one at random."""

_MUCH = 5.0
"""Files that last so many times as long as what is used of them are worth a note."""

_HIGHEST_RATE = 48_000
"""The highest rate, in Hz, that is suggested."""

_PARTS = ("training", "testing", "validation")
"""The parts of Speech Commands, each with its list of files."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def examples(waveforms: Tensor, labels: Tensor) -> TensorDict:
    """One TensorDict of `waveform` `[N, C, L]` and `label` `[N]`."""
    return TensorDict({"waveform": waveforms.contiguous(), "label": labels.long()}, batch_size=[len(waveforms)])


def data(
    train: TensorDict,
    held_out: TensorDict | None,
    classes: Sequence[str],
    options: SoundOptions,
    notes: Sequence[str] = (),
    account: Account | None = None,
    texts: Sequence[str] = (),
) -> Data:
    """A `Data` whose codec is fitted to the training sounds, or to 1,000 evenly spaced ones if there are more."""
    waveforms = train["waveform"]
    facts = SoundFacts(
        rate=options.rate,
        samples=waveforms.shape[2],
        channels=waveforms.shape[1],
        classes=tuple(classes),
        codec=unfitted(options),
        polarity=options.polarity,
        coarse=unfitted(options.smaller) if options.upscale else None,
        **options.enlarging,
    )
    about = {
        "rate": f"{options.rate} Hz",
        "length": f"{waveforms.shape[2] / options.rate:.3g} s",
        "channels": str(waveforms.shape[1]),
    }
    skip = isinstance(options, FileOptions) and options.skip_unreadable
    ledger = (account or Account("sounds")).ledger(skip, **about)
    chosen = torch.linspace(0, len(train) - 1, min(len(train), _FIT_EXAMPLES)).round().long()
    few = floats(waveforms[chosen])
    facts = fitted(facts, few)
    if options.joint:
        facts = facts.model_copy(update={"envelope": _envelope(few, options)})
    return Data(facts, train, held_out, tuple(notes), ledger, tuple(texts))


def _envelope(waves: Tensor, options: SoundOptions) -> EnvelopeFacts:
    """The facts of the envelopes of waveforms."""
    facts = EnvelopeFacts(frames=options.frames, floor=options.quietest, mean=0.0, std=1.0)
    levels = envelope(waves, facts).double()
    return facts.model_copy(update={"mean": levels.mean().item(), "std": max(levels.std(correction=0).item(), 0.1)})


def drums(options: DrumsOptions) -> Data:
    """Kicks, snares, hi-hats, toms, claps and cowbells, synthesised by `diffcore_audio.data.synthesis`.

    With `captions`, each training sound has two sentences that may leave something out, and each held-out sound one
    that says everything; they take the place of the classes.
    """
    sounds = [synthesise(name, options.sounds, length(options), options.rate, options.seed) for name in INSTRUMENTS]
    waveforms = torch.cat([(torch.from_numpy(each.waveform) * FULL_SCALE).round().to(torch.int16) for each in sounds])
    labels = torch.arange(len(INSTRUMENTS)).repeat_interleave(options.sounds)
    everything = examples(waveforms[:, None], labels)
    if not options.captions:
        return data(*folders.split(everything, options.held_out), list(INSTRUMENTS), options)
    # In a random order, so that the first held-out sounds, and the first sentences, are of all instruments.
    order = torch.randperm(len(labels), generator=generator_for(options.seed, "order"))
    values = [values_of(name, each) for name, each in zip(INSTRUMENTS, sounds, strict=True)]
    joined = {name: torch.cat([each[name] for each in values])[order] for name in values[0]}
    everything = everything[order]
    texts, everything["captions"] = _sentences(joined, options.seed)
    train, held_out = folders.split(everything, options.held_out)
    train["captions"] = train["captions"][:, :WORDINGS_EACH].contiguous()
    if held_out is not None:
        held_out["captions"] = held_out["captions"][:, WORDINGS_EACH:].contiguous()
    made = data(train, held_out, (), options, texts=texts)
    return replace(made, facts=made.facts.model_copy(update={"described": True}))


def _sentences(values: Mapping[str, Tensor], seed: int) -> tuple[tuple[str, ...], Tensor]:
    """The texts of all sounds and their numbers `[N, WORDINGS_EACH + 1]`, of which the last says everything."""
    generator = generator_for(seed, "sentences")
    written = [write(values, generator, complete) for complete in (*(False,) * WORDINGS_EACH, True)]
    return indexed([*zip(*written, strict=True)])


def folder(options: FolderOptions) -> Data:
    """A folder of sounds, in one of the layouts of `diffcore.plugins.folders.tree`.

    Raises `UserError` with the names of the files that cannot be used; with `skip_unreadable`, these files are passed
    over, and the ledger names them. Silent files are passed over in any case.
    """
    tree = folders.tree(
        options.root,
        SOUND_ENDINGS,
        "folder",
        "sounds",
        level=options.class_level,
        hints=CONVERTIBLE,
        captioned=True,
    )
    target = Format(options.rate, length(options), options.channels, options.trim)
    account = tree.account()
    captions = tree.texts(account)
    better: list[str] = []
    train, test = _read([tree.train, tree.test or ()], target, options, account, better, captions, options.pieces)
    held_out = test if len(test) >= 2 else None
    if tree.test is None:
        train, held_out = (folders.split if options.pieces == 1 else split_pieces)(train, options.held_out)
    classes, train, held_out = folders.without_empty(tree.classes, train, held_out, account)
    notes = [*tree.notes, *folders.uneven(classes, train, held_out), *better]
    return data(train, held_out, classes, options, notes, account, captions.texts)


def speech_commands(options: SpeechOptions) -> Data:
    """Speech Commands 2 (Warden 2018), 35 words, from the folder `root/SpeechCommands/speech_commands_v0.02`."""
    return _speech(options, None)


def sc09(options: SpeechOptions) -> Data:
    """The ten digits of Speech Commands; class k is the digit k."""
    return _speech(options, _DIGITS)


def _speech(options: SpeechOptions, words: Sequence[str] | None) -> Data:
    """The training list of the data set, with its test list held out; its validation list is not used.

    `words` are the classes, None for all of them. Raises `UserError` if the data set is missing or incomplete, or if
    the download fails.
    """
    from torchaudio.datasets import SPEECHCOMMANDS

    root = options.root
    if root is None:
        raise UserError(
            "Speech Commands needs `data.root`, the folder that contains it; `data.download` downloads it there"
        )
    for name in ("testing_list.txt", "validation_list.txt"):
        path = Path(root) / "SpeechCommands" / "speech_commands_v0.02" / name
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is a folder, a pipe or a device, not a file: restore it from Speech Commands")
    try:
        if options.download:
            Path(root).mkdir(parents=True, exist_ok=True)
        sets = [SPEECHCOMMANDS(root, download=options.download, subset=part) for part in _PARTS]
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        reason = first_line(error)
        if options.download:
            raise UserError(
                f"Speech Commands could not be downloaded into {root} ({reason}); check the connection, "
                "or set `data.root` to a folder that contains it"
            ) from None
        raise UserError(
            f"Speech Commands is not in {root} ({reason}); set `data.root` to the folder that contains "
            "SpeechCommands/speech_commands_v0.02, or download it with `data.download`"
        ) from None
    # torchaudio would need torchcodec to read the sounds, so they are read by soundfile.
    *paths_of_sets, validation = [[Path(path) for path in each._walker] for each in sets]
    train_words, test_words = ({path.parent.name for path in paths} for paths in paths_of_sets)
    classes = list(words) if words else sorted(train_words)
    if missing := [name for name in classes if name not in train_words]:
        raise UserError(
            f"Speech Commands in {root} is incomplete: it has no training sounds of {named(missing)}; "
            "download it again with `data.download`"
        )
    if not words and (unknown := sorted(test_words - train_words)):
        raise UserError(
            f"Speech Commands in {root} is incomplete: its test list has words without training sounds: "
            f"{named(unknown)}; download it again with `data.download`"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    listings = [
        tuple((path, numbers[path.parent.name]) for path in paths if path.parent.name in numbers)
        for paths in paths_of_sets
    ]
    account = Account("sounds", root, sum(map(len, listings)))
    listings[0] = _without_links(listings[0], [*paths_of_sets[1], *validation], account)
    train, test = _read(listings, Format(options.rate, length(options), 1), options, account, [])
    kept, train, held_out = folders.without_empty(classes, train, test if len(test) >= 2 else None, account)
    return data(train, held_out, kept, options, folders.uneven(kept, train, held_out), account)


def _without_links(train: folders.Files, held_out: Collection[Path], account: Account) -> folders.Files:
    """The training files without links to files that are held out or in the list anyway; the account gets these."""
    seen = {_identity(path) for path in held_out} - {None}
    kept = set()
    for path, _ in sorted(train, key=lambda item: item[0].is_symlink() or item[0].parent.is_symlink()):
        identity = _identity(path)
        if identity in seen:
            account.pass_over(path, TWICE)
        else:
            kept.add(path)
            seen |= {identity} - {None}
    return tuple((path, label) for path, label in train if path in kept)


def _identity(path: Path) -> tuple[int, int] | None:
    """The device and the inode of a file; None if it cannot be found, which its reader will say."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # a value error for a name with a null byte
        return None
    return status.st_dev, status.st_ino


def split_pieces(everything: TensorDict, share: float) -> tuple[TensorDict, TensorDict | None]:
    """Keep back the last share of the pieces of each class, so that at most one recording of a class is in both.

    The order of the pieces is that of the files and of time. None where there are too few.
    """
    label = everything["label"]
    held = torch.zeros(len(label), dtype=torch.bool)
    for each in label.unique():
        rows = (label == each).nonzero()[:, 0]
        held[rows[len(rows) - int(share * len(rows) + 1e-9) :]] = True
    return (everything, None) if held.sum() < 2 else (everything[~held], everything[held])


def suggestions(found: Loaded, target: Format, pieces: int) -> list[str]:
    """What options would keep more of the files: pieces of long ones, their channels, their rate."""
    notes = []
    there, used = found.seconds
    if pieces == 1 and there > _MUCH * used:
        notes.append(
            f"the files last {there / 60:.3g} minutes, of which {used / 60:.2g} are used: `data.pieces` 1000 cuts each "
            f"into up to 1000 pieces of {target.seconds}"
        )
    (rate, channels), count = Counter(found.formats).most_common(1)[0] if found.formats else ((0, 0), 0)
    kept = [f"`data.rate` {rate}"] if target.rate < rate <= _HIGHEST_RATE else []
    kept += ["`data.channels` 2"] if channels == 2 and target.channels == 1 else []
    if kept and 2 * count > len(found.formats):
        sounds = f"{rate} Hz, {'stereo' if channels == 2 else 'mono' if channels == 1 else f'{channels} channels'}"
        own = f"{target.rate} Hz, {'stereo' if target.channels == 2 else 'mono'}"
        notes.append(
            f"most files have {sounds}, and the model {own}: {' and '.join(kept)} would keep them, for more computation"
        )
    return notes


def _read(
    listings: Sequence[folders.Files],
    target: Format,
    options: FileOptions,
    account: Account,
    notes: list[str],
    captions: FileCaptions = NO_CAPTIONS,
    pieces: int = 1,
) -> list[TensorDict]:
    """The examples of each listing; the account gets what was changed or not used, and `notes` what may be better.

    Raises `UserError` if no training sound can be used.
    """
    sets: list[TensorDict] = []
    for files in listings:
        found = load(_limited(files, options.limit, account), target, account, pieces)
        loaded = captions.added(examples(found.waveforms, found.labels), found.paths)
        sets.append(folders.with_places(loaded, found.paths, str(options.root)))
        notes += suggestions(found, target, pieces) if not notes else []
    if not len(sets[0]):
        raise account.nothing_left()
    return sets


def _limited(files: folders.Files, limit: int | None, account: Account) -> folders.Files:
    """The first `limit` files of each class; the account gets the others."""
    if limit is None:
        return files
    number = {label: itertools.count() for _, label in files}
    kept = []
    for path, label in files:
        if next(number[label]) < limit:
            kept.append((path, label))
        else:
            account.pass_over(path, "beyond `data.limit`, the largest number of files of each class")
    return tuple(kept)
