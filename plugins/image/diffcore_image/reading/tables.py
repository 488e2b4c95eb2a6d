"""The data set `parquet`: tables with a column of pictures, as the data sets of Hugging Face have."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from diffcore.errors import UserError, first_line
from diffcore.plugins.data import Data
from diffcore.plugins.ledger import Account, named
from diffcore_image.options import ParquetOptions
from diffcore_image.reading.addresses import Remote, files_at, reading, split_parts
from diffcore_image.reading.records import Record, Shard, name_in, of_records

NAME = "parquet"

_IMAGES = ("image", "img", "picture", "jpg", "png")
_LABELS = ("label", "labels", "class", "fine_label")
_CAPTIONS = ("text", "caption", "captions", "prompt")
"""Names that columns usually have, which are used if the options name none."""

_ROWS = 32
"""Rows that are read at once."""


def parquet(options: ParquetOptions) -> Data:
    """Pictures in Parquet files: a column of the bytes of image files, or of structures with `bytes`, as in datasets.

    The column `data.image` is that of the pictures, `data.label` that of the classes and `data.caption` that of the
    captions, texts or lists of texts; columns of the usual names are found without. Names of classes come from the
    description that Hugging Face's datasets writes into the file. Records of files whose names have the word test, or
    else validation, are held out.

    Raises `UserError` for files that cannot be read or lack a column, and, unless they are
    to be skipped, for damaged pictures.
    """
    account = Account("images", str(options.root))
    files, held = split_parts(files_at(options.root, NAME, "Parquet files", (".parquet",)), account.pass_over)
    shards: list[Shard] = []
    classes: tuple[str, ...] = ()
    for number, file in enumerate(files):
        columns, names, groups = reading(file.path, _described, file, options)
        classes = classes or names
        for group in range(groups):
            version = (*file.version, *columns, *names)
            read = partial(_records, file, group, columns, names)
            shards.append(Shard(f"{file.path} {group}", version, bool(held and held[number]), read))
    return of_records(shards, options, account, f"images of {options.root}", held is not None, classes)


Columns = tuple[str, str | None, str | None]
"""The names of the columns of pictures, classes and captions."""


def _described(file: Remote, options: ParquetOptions) -> tuple[Columns, tuple[str, ...], int]:
    """The columns of a file, the names of its classes where it has any, and the number of its row groups."""
    from pyarrow.parquet import ParquetFile

    with file.open() as stream:
        table = ParquetFile(stream)
        there = table.schema_arrow.names
        columns = (
            _column(options.image, _IMAGES, there, "image", file),
            _column(options.label, _LABELS, there, "label", file),
            _column(options.caption, _CAPTIONS, there, "caption", file),
        )
        if columns[0] is None:
            raise UserError(
                f"{file.path} has no column called {' or '.join(_IMAGES)}: name the column of the images with "
                f"`data.image`; it has: {named(there)}"
            )
        names = _class_names(table.schema_arrow.metadata or {}, columns[1])
        return (columns[0], columns[1], columns[2]), names, table.num_row_groups


def _column(asked: str | None, usual: tuple[str, ...], there: list[str], option: str, file: Remote) -> str | None:
    if asked is not None and asked not in there:
        raise UserError(f"{file.path} has no column {asked!r} (`data.{option}`); it has: {named(there)}")
    return asked or next((name for name in usual if name in there), None)


def _class_names(metadata: Mapping[bytes, bytes], label: str | None) -> tuple[str, ...]:
    """The names of the classes in the description of Hugging Face's datasets; none if there is none."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _records(file: Remote, group: int, columns: Columns, names: tuple[str, ...]) -> Iterator[Record]:
    """The records of a row group, named after their rows, from 1. A damaged one ends with a record that says so."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    image, label, caption = columns
    wanted = [name for name in columns if name is not None]
    with file.open() as stream:
        try:
            table = ParquetFile(stream)
            count = sum(table.metadata.row_group(before).num_rows for before in range(group))
            for batch in table.iter_batches(_ROWS, row_groups=[group], columns=wanted):
                for row in batch.to_pylist():
                    count += 1
                    name = name_in(file.name, f"row {count}")
                    yield _record(name, row[image], label and row[label], caption and row[caption], names)
        except (ArrowException, OSError) as error:
            yield Record(name_in(file.name, f"row group {group}"), refused=f"damaged: {first_line(error)}")


def _record(name: str, picture: Any, label: Any, caption: Any, names: tuple[str, ...]) -> Record:
    content = picture.get("bytes") if isinstance(picture, Mapping) else picture
    if not isinstance(content, bytes):
        linked = isinstance(picture, Mapping) and picture.get("path")
        return Record(name, refused="only a path, not the bytes of a picture" if linked else "without a picture")
    known = None if label is None else str(label)
    if names and isinstance(label, int):
        known = names[label] if 0 <= label < len(names) else None
    texts = caption if isinstance(caption, list) else [caption]
    return Record(name, content, known, tuple(text for text in texts if isinstance(text, str)))
