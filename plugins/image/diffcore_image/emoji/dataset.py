"""The data set `emoji`: a user's pictures of emoji, described by their names and tags."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.text import padded
from diffcore.denoising.words import words_of
from diffcore.errors import UserError
from diffcore.plugins.captions import MOST_CAPTIONS, FileCaptions, cleaned
from diffcore.plugins.data import Data
from diffcore.plugins.folders import Files, Tree, tree, uneven, without_empty
from diffcore.plugins.ledger import Account
from diffcore.plugins.text import indexed
from diffcore.states.noise import generator_for
from diffcore_image.datasets import about, colour_of, data, examples, load, require_room
from diffcore_image.emoji.names import TABLES, Codes, Named, codes_of, has_skin_tone, read_names
from diffcore_image.options import EmojiOptions
from diffcore_image.stored import ENDINGS

LEAST_SUBJECTS = 20
"""With fewer subjects, there is nothing to choose from for the judge."""


@dataclass(frozen=True)
class Pictures:
    """Named pictures of emoji: uint8 `pixels` `[N, 3, H, W]`, `style` `[N]`, and what each is called."""

    pixels: Tensor
    style: Tensor
    named: tuple[Named, ...]

    @property
    def subject(self) -> Tensor:
        """The number of what each picture shows, int64 `[N]`: those with the same first name have the same."""
        numbers: dict[str, int] = {}
        return torch.tensor([numbers.setdefault(each.names[0].casefold(), len(numbers)) for each in self.named])


def emoji(options: EmojiOptions) -> Data:
    """Pictures of emoji with their names and tags, from a folder of any depth.

    The folders are styles, as they are classes for the data set `folder`; they become labels if there are several.
    Names come from captions beside the pictures (`diffcore.plugins.captions`, with the tags of metadata.jsonl), or from
    the tables of packages (`diffcore_image.emoji.names`). Variants of skin tone, files without a name, and pictures
    that are equal to another one of the same style are passed over; the names of equal pictures are all used.

    Held-out examples are those of subjects that training does not have or, with `unseen` pairs, pairs of a subject and
    a style. Samples of an evaluation are drawn for held-out and for training examples in turn.

    Raises `UserError` for files that cannot be read (unless `skip_unreadable`), and without names for enough of them.
    """
    background = colour_of(options.background)
    files = tree(options.root, ENDINGS, "emoji", "pictures", unfit=_unfit, captioned=True, tables=TABLES)
    account = files.account()
    named, names = _named_files(files, account)
    require_room(len(named), options.size)
    sizes: set[tuple[int, int]] = set()
    loaded = load(named, options.size, background, account, sizes)
    if not loaded.files:
        raise account.nothing_left()
    found = _distinct(loaded.pixels, loaded.labels, loaded.files, names, account)
    held = _held_out(found, options)
    described, texts = _described(found, held)
    classes, train, held_out = without_empty(
        files.classes if len(files.classes) > 1 else (), described[~held], described[held], account
    )
    if held_out is None:
        raise UserError(f"too few pictures under {files.root} are left to hold out of training: use more of each style")
    ledger = account.ledger(options.skip_unreadable, **about(train["pixels"], sizes), **_counts(found, held))
    notes = uneven(classes, train, held_out)
    made = data(train, held_out, classes, notes=notes, background=background, ledger=ledger, texts=texts)
    return replace(made, facts=made.facts.model_copy(update={"judge": "emoji"}), asked=_in_turn(held_out, train))


def _unfit(path: Path) -> str:
    """Why a picture is not one of an emoji, or empty."""
    codes = codes_of(path.stem)
    if codes is not None and has_skin_tone(codes):
        return "variants of skin tone"
    return "sheets of many emoji" if path.parent.name.startswith("sheets") else ""


def _named_files(files: Tree, account: Account) -> tuple[Files, dict[Path, Named]]:
    """The files with a name, and what they are called. The account gets the others; it is a `UserError` if all are."""
    everything = (*files.train, *(files.test or ()))
    captions, tables = files.texts(account), read_names(files.tables)
    names = {path: named for path, _ in everything if (named := _named(path, captions, tables, account))}
    if not names:
        raise UserError(
            f"none of the {len(everything)} pictures under {files.root} has a name: put a metadata.jsonl with "
            "file_name, text and tags beside them, or unpack emoji.json or emojibase-data/en/data.json in this folder"
        )
    for path, _ in everything:
        if path not in names:
            account.pass_over(path, "without a name")
    return tuple((path, style) for path, style in everything if path in names), names


def _named(path: Path, captions: FileCaptions, tables: Mapping[Codes, Named], account: Account) -> Named | None:
    if names := captions.by_file.get(path, ()):
        return Named(names, captions.tags.get(path, ()))
    listed = tables.get(codes_of(path.stem) or ())
    names = cleaned(path, listed.names, account) if listed else ()
    return Named(names, cleaned(path, listed.tags, account)) if listed and names else None


def _distinct(
    pixels: Tensor, styles: Sequence[int], files: Sequence[Path], names: Mapping[Path, Named], account: Account
) -> Pictures:
    """Each picture of a style once. Equal ones become one with all their names, and the account gets the others."""
    first: dict[bytes, int] = {}
    kept: list[int] = []
    named: list[Named] = []
    for number, (path, style) in enumerate(zip(files, styles, strict=True)):
        digest = hashlib.sha256(pixels[number].numpy().tobytes() + bytes([style % 256])).digest()
        if (place := first.setdefault(digest, len(kept))) == len(kept):
            kept.append(number)
            named.append(names[path])
        else:
            account.pass_over(path, "equal to another picture, for which its name is used too")
            same = named[place]
            named[place] = Named(tuple(dict.fromkeys((*same.names, *names[path].names))), same.tags)
    return Pictures(pixels[kept], torch.tensor(styles)[kept], tuple(named))


def _held_out(found: Pictures, options: EmojiOptions) -> Tensor:
    """Which pictures are held out, bool `[N]`, the same ones each time. Raises `UserError` for too few subjects."""
    subject = found.subject
    subjects = int(subject.max()) + 1
    if subjects < LEAST_SUBJECTS:
        raise UserError(
            f"{subjects} different emoji have a name under {options.root}; this data set needs {LEAST_SUBJECTS} or more"
        )
    generator = generator_for("emoji held out")
    if options.unseen == "subjects":
        return torch.isin(subject, torch.randperm(subjects, generator=generator)[: _part(subjects, options)])
    held = torch.zeros(len(subject), dtype=torch.bool)
    left = torch.bincount(subject)
    for number in torch.randperm(len(subject), generator=generator).tolist():
        if left[subject[number]] > 1 and int(held.sum()) < _part(len(subject), options):
            held[number] = True
            left[subject[number]] -= 1
    if int(held.sum()) < 2:
        raise UserError(
            "`data.unseen` pairs needs emoji in several styles, each style in a folder of its own, and "
            f"{options.root} has too few; hold out subjects instead"
        )
    return held


def _part(count: int, options: EmojiOptions) -> int:
    return max(2, round(options.held_out * count))


def _described(found: Pictures, held: Tensor) -> tuple[TensorDict, tuple[str, ...]]:
    """All examples and their texts. The examples have three more columns than those of other images.

    `captions` are the numbers of the wordings. `subject` is the number of the subject. `words` `[N, K]` are the numbers
    of the words of the description, filled up with -1: words of two or more training descriptions, for the judge.
    """
    described = examples(found.pixels, found.style)
    texts, described["captions"] = indexed([each.wordings[:MOST_CAPTIONS] for each in found.named])
    described["subject"] = found.subject
    bags = [[*dict.fromkeys(words_of(each.description))] for each in found.named]
    counts = Counter(word for bag, out in zip(bags, held.tolist(), strict=True) if not out for word in bag)
    index = {word: number for number, word in enumerate(sorted(word for word in counts if counts[word] > 1))}
    rows = [[index[word] for word in bag if word in index] for bag in bags]
    described["words"] = padded(rows, max([1, *map(len, rows)]), -1)
    return described, texts


def _in_turn(held_out: TensorDict, train: TensorDict) -> TensorDict:
    """Held-out and training examples, one after another, equally many; the column `held_out` tells them apart."""
    few = train[torch.arange(len(held_out)) * len(train) // len(held_out)]
    asked = TensorDict.stack([held_out, few], 1).flatten(0, 1)
    asked["held_out"] = torch.arange(len(asked)) % 2 == 0
    return asked


def _counts(found: Pictures, held: Tensor) -> dict[str, str]:
    subject = found.subject
    new = len({*subject[held].tolist()} - {*subject[~held].tolist()})
    return {"subjects": f"{int(subject.max()) + 1}, of which {new} are only held out"}
