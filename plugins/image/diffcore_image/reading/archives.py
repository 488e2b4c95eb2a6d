"""The data set `webdataset`: tar files in which the files of a record have one name and different endings."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from functools import partial
from typing import IO, Any

from diffcore.errors import first_line
from diffcore.plugins.data import Data
from diffcore.plugins.ledger import Account
from diffcore_image.options import WebDatasetOptions
from diffcore_image.reading.addresses import Remote, files_at, reading, split_parts
from diffcore_image.reading.records import Record, Shard, lines, name_in, of_records
from diffcore_image.stored import ENDINGS

NAME = "webdataset"

TARS = (".tar", ".tar.gz", ".tgz")

_LABELS = ("label", "class", "cls")
"""Keys of JSON whose value is the class of a record."""
_CAPTIONS = ("caption", "captions", "text", "prompt")
"""Keys of JSON whose value is the caption of a record, or a list of captions."""


def webdataset(options: WebDatasetOptions) -> Data:
    """Pictures in tars as the package webdataset writes them: `0001.jpg`, `0001.cls`, `0001.txt`, `0001.json`.

    `.cls` is the class, `.txt` has a caption in each line, and `.json` may have either, with one of the keys above.
    Records of tars whose names have the word test, or else val, are held out. Nothing but these texts and the pictures
    is decoded. Raises `UserError` for tars that cannot be read and, unless they are to be skipped, for
    damaged records.
    """
    files = files_at(options.root, NAME, "tar files", TARS, braces=True)
    account = Account("images", str(options.root))
    files, held = split_parts(files, account.pass_over)
    shards = [
        Shard(file.path, file.version, bool(held and held[number]), partial(_records, file))
        for number, file in enumerate(files)
    ]
    return of_records(shards, options, account, f"images of {options.root}", held is not None)


def _records(file: Remote) -> Iterator[Record]:
    """The records of a tar. A tar that is damaged ends with a record that says so."""
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    with file.open() as opened:
        stream = _Watched(opened)
        members = tar_file_iterator(stream, select_files=_is_read)
        samples = group_by_keys({**member, "__url__": file.path} for member in members)
        while True:
            try:
                sample = reading(file.path, next, samples, None)
            except tarfile.TarError as error:
                yield Record(file.name, refused=f"damaged: {first_line(error)}")
                return
            except EOFError as error:
                yield Record(file.name, refused=f"damaged: {first_line(error) or 'it is cut off'}")
                return
            if sample is None:
                break
            yield _record(file, sample)
        if stream.ended and file.path.lower().endswith(".tar"):
            yield Record(file.name, refused="damaged: it is cut off, as the mark at its end is missing")


class _Watched:
    """A file, and whether a reader wanted more than there is, which readers of whole tars do not."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.ended = file, False

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.ended = self.ended or not content
        return content


def _is_read(name: str) -> bool:
    return f".{name.rpartition('.')[2].lower()}" in {*ENDINGS, ".cls", ".txt", ".json"}


def _record(file: Remote, sample: Mapping[str, Any]) -> Record:
    name = name_in(file.name, str(sample["__key__"]))
    pictures = [key for key in sample if f".{key.rpartition('.')[2]}" in ENDINGS and not key.startswith("__")]
    if not pictures:
        return Record(name, refused="without a picture")
    try:
        table = json.loads(sample.get("json", b"{}"))
    except (ValueError, RecursionError):
        return Record(name, refused="its .json is not JSON")
    table = table if isinstance(table, Mapping) else {}
    label = next((str(table[key]) for key in _LABELS if isinstance(table.get(key), str | int)), None)
    if "cls" in sample:
        label = sample["cls"].decode("utf-8", "replace").strip()
    captions = lines(sample.get("txt", b""))
    given: Any = next((table[key] for key in _CAPTIONS if table.get(key)), [])
    captions += tuple(text for text in (given if isinstance(given, list) else [given]) if isinstance(text, str))
    return Record(name, sample[pictures[0]], label, captions)
