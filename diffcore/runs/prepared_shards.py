"""What codecs prepare of examples that are mapped from files: it is written to shards, part by part, and mapped too.

All columns that the codec makes of an example are the bytes of one row. Columns that it passes on stay where they are.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffcore.runs.checkpoints import tensors_digest
from diffcore.states.state import fields, named
from diffcore.system.mapped import origin_of
from diffcore.system.shards import Form, Row, default_folder, encode

if TYPE_CHECKING:
    from tensordict import TensorDict

Prepare = Callable[[range], tuple["TensorDict", "TensorDict"]]
"""The examples with these numbers as a codec receives them, and what it prepares of them."""


def prepared_in_shards(examples: "TensorDict", prepare: Prepare, identity: str, at_once: int) -> "TensorDict":
    """What `prepare` makes of all examples, mapped from a file, which is kept for the next time.

    * `prepare` is called by this thread, with `at_once` examples at a time from the first one on, fewer at the end.
      What it makes of an example must have the same form for all.
    * `identity` changes whenever `prepare` does. The examples have an identity of their own: that of mapped columns is
      known from their shards, and the others are read.

    Complete shards are kept if this is interrupted. They are written beside those that a column is mapped from, or to
    the cache if no folder is known that can be written to. Raises `ValueError` if forms differ.
    """
    count, layout = len(examples), _Layout.of(*prepare(range(1)))
    made: dict[str, Tensor] = {}
    if layout.columns:
        form = Form((layout.bytes,))
        pieces = form.pieces(count, at_once)
        whole = hashlib.sha256(f"{identity} {_identity(examples)} {layout}".encode(errors="surrogateescape"))

        def read(number: int) -> Iterator[Row]:
            piece = pieces[number]
            for start in range(piece.start, piece.stop, at_once):
                for row in layout.packed(*prepare(range(start, min(start + at_once, piece.stop)))):
                    yield row, None

        identities = [f"{whole.hexdigest()} {piece.start} {piece.stop}" for piece in pieces]
        encoded = encode(_folder(examples), identities, form, read, "prepared examples", count, threads=1)
        made = layout.unpacked(encoded.rows(torch.arange(count)))
    return named({name: made[name] if name in made else examples[name] for name in layout.names})


@dataclass(frozen=True)
class _Column:
    """The place of a column in a row of bytes."""

    name: str
    start: int
    form: Form

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.form.bytes)


@dataclass(frozen=True)
class _Layout:
    """Which columns are passed on and which are made, and where these are in a row of `bytes` bytes."""

    names: tuple[str, ...]
    columns: tuple[_Column, ...]
    bytes: int

    @classmethod
    def of(cls, given: "TensorDict", made: "TensorDict") -> "_Layout":
        """The layout for what is made of the examples `given`. Numbers of more bytes come first, so all are aligned."""
        found = {name: value for name, value in fields(made).items() if not _passed_on(fields(given).get(name), value)}
        columns, start = list[_Column](), 0
        for name, value in sorted(found.items(), key=lambda each: -each[1].element_size()):
            columns.append(_Column(name, start, Form(tuple(value.shape[1:]), value.dtype)))
            start += columns[-1].form.bytes
        largest = columns[0].form.dtype.itemsize if columns else 1
        return cls(tuple(fields(made)), tuple(columns), math.ceil(start / largest) * largest)

    def packed(self, given: "TensorDict", made: "TensorDict") -> Tensor:
        """The rows of what is made of the examples `given`: uint8 `[B, bytes]`, on the CPU."""
        values, known = fields(made), {column.name for column in self.columns}
        if {*values} != {*self.names}:
            raise ValueError(f"a codec prepares the columns {sorted(values)} of some examples, not {[*self.names]}")
        for name in {*values} - known:
            if not _passed_on(given[name], values[name]) and not torch.equal(given[name], values[name]):
                raise ValueError(f"a codec passes on the column {name} of some examples only")
        rows = torch.zeros(len(made), self.bytes, dtype=torch.uint8)
        for column in self.columns:
            value, form = values[column.name].cpu(), column.form
            if (tuple(value.shape[1:]), value.dtype) != (form.shape, form.dtype):
                raise ValueError(
                    f"a codec prepares {column.name} as {[*value.shape[1:]]} of {value.dtype} for some examples, "
                    f"not as {[*form.shape]} of {form.dtype}"
                )
            rows[:, column.place] = value.reshape(len(value), math.prod(form.shape)).contiguous().view(torch.uint8)
        return rows

    def unpacked(self, rows: Tensor) -> dict[str, Tensor]:
        """The columns of rows of bytes, as views."""
        return {
            column.name: rows[:, column.place].view(column.form.dtype).view(len(rows), *column.form.shape)
            for column in self.columns
        }


def _passed_on(given: Tensor | None, made: Tensor) -> bool:
    """Whether what is made is the very tensor that was given."""
    if given is None or given.dtype != made.dtype or given.shape != made.shape:
        return False
    return given.data_ptr() == made.data_ptr() and given.stride() == made.stride()


def _identity(examples: "TensorDict") -> str:
    """A text that changes whenever examples do: only columns whose origin is not known are read for it."""
    columns, origins = fields(examples), {name: origin_of(value) for name, value in fields(examples).items()}
    known = [f"{name} {origin.identity}" for name, origin in sorted(origins.items()) if origin is not None]
    return " ".join([*known, tensors_digest({name: value for name, value in columns.items() if not origins[name]})])


def _folder(examples: "TensorDict") -> Path:
    """The folder of the shards that a column is mapped from, if it can be written to; else that in the cache."""
    origins = [origin for value in fields(examples).values() if (origin := origin_of(value)) is not None]
    folders = [origin.folder.parent for origin in origins]
    return next((folder for folder in folders if os.access(folder, os.W_OK)), default_folder())
