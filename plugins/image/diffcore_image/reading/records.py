"""Pictures of records: of each a picture, its class and its captions, from whatever file they come."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from diffcore.plugins.captions import cleaned
from diffcore.plugins.data import Data
from diffcore.plugins.ledger import Account, shown
from diffcore.plugins.text import indexed
from diffcore.system.shards import Row, encode
from diffcore_image.datasets import colour_of, of_squares
from diffcore_image.options import PictureOptions
from diffcore_image.reading.squares import InShards, form_of, identity_of, rows_of, shard_folder, tell


@dataclass(frozen=True)
class Record:
    """A record of a file: its name, its picture as the content of a file, its class and its captions.

    A record that cannot be used has the reason why in `refused`.
    """

    name: str
    picture: bytes = b""
    label: str | None = None
    captions: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class Shard:
    """Records that are read one after another: `read` yields them; `version` changes whenever they do."""

    name: str
    version: Sequence[object]
    held_out: bool
    read: Callable[[], Iterator[Record]]


def of_records(
    shards: Sequence[Shard],
    options: PictureOptions,
    account: Account,
    what: str,
    split: bool,
    classes: Sequence[str] = (),
) -> Data:
    """The data of the pictures of all shards, encoded once and then mapped from there.

    * `what`: what is read, in words.
    * `split`: whether the shards say which of them are held out.
    * `classes`: the names of the classes in the order of their labels, where they are known; else the labels are.

    Raises `UserError` for records that cannot be read, unless they are skipped, and if none is left.
    """
    background = colour_of(options.background)
    form = form_of(options.size)

    def read(number: int) -> Iterator[Row]:
        for record in shards[number].read():
            more: dict[str, Any] = {"name": record.name, "label": record.label, "captions": record.captions}
            if record.refused:
                yield None, {**more, "refused": record.refused}
            else:
                yield from rows_of([(record.picture, more)], options.size, background)

    identities = [identity_of(shard.name, shard.version, options.size, background) for shard in shards]
    encoded = encode(shard_folder(options.shards), identities, form, read, what)
    account.found = len(encoded.records)
    sizes: set[tuple[int, int]] = set()
    for told in encoded.records:
        tell(account, told["name"], told, sizes)
    used = [told for told in encoded.records if "refused" not in told]
    known = list(classes) or sorted({str(told["label"]) for told in used if told["label"] is not None}, key=_by_number)
    label, known = _labels(used, known, account)
    captions = [cleaned(told["name"], told["captions"], account) for told in used]
    texts, numbers = indexed(captions)
    columns = TensorDict({"label": label}, [len(used)])
    if texts:
        columns["captions"] = numbers
    counts = [sum("refused" not in told for told in part) for part in encoded.told]
    held = torch.tensor([*chain(*([shard.held_out] * n for shard, n in zip(shards, counts, strict=True)))]).bool()
    return of_squares(InShards(encoded), columns, held if split else None, known, options, account, sizes, (), texts)


def _labels(used: Sequence[dict[str, Any]], known: Sequence[str], account: Account) -> tuple[torch.Tensor, list[str]]:
    """The index of the class of each record; no classes unless all records have one, which the account gets."""
    index = {name: number for number, name in enumerate(known)}
    labels = [index.get(str(told["label"])) if told["label"] is not None else None for told in used]
    if index and None in labels:
        for told, label in zip(used, labels, strict=True):
            if label is None:
                account.note(told["name"], "without a class, so no classes are used")
        return torch.zeros(len(used), dtype=torch.int64), []
    return torch.tensor([label or 0 for label in labels], dtype=torch.int64), [shown(name) for name in known]


def _by_number(name: str) -> tuple[int, int, str]:
    """Labels that are whole numbers come first, in their order."""
    return (0, int(name), "") if name.isdecimal() and len(name) < 19 else (1, 0, name)


def lines(content: bytes) -> tuple[str, ...]:
    """The lines of a text that are not empty; what is not UTF-8 is replaced."""
    text = content.decode("utf-8-sig", "replace")
    return tuple(line for line in text.splitlines() if line.strip())


def name_in(file: str, key: str | Path) -> str:
    """The name of a record in a file."""
    return f"{file}:{key}"
