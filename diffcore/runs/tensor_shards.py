"""Tensors whose rows lie in several safetensors files, as `torch.distributed.checkpoint` writes them.

Each process writes its rows of each tensor to files of its own, and says in the header of a file, under
`DCP_SHARDING_INFO`, where its rows begin. Reading them takes headers and plain numbers alone: no pickle is involved.
"""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from diffcore.system.files import is_count, open_regular
from diffcore.system.tensor_file import Entry, entries_in, header_of

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Types of numbers by their names in the format."""

_INFO, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
_BLOCK = 2**24
"""Bytes that are copied at once."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a tensor: the file, the bytes there, and the number of the first row and of the rows."""

    path: Path
    start: int
    end: int
    row: int
    rows: int


@dataclass(frozen=True)
class Sharded:
    """A tensor in pieces, which follow each other without gaps."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, in blocks of at most 16 MiB."""
        for piece in self.pieces:
            with os.fdopen(open_regular(piece.path), "rb") as file:
                file.seek(piece.start)
                left = piece.end - piece.start
                while left:
                    block = file.read(min(_BLOCK, left))
                    if not block:
                        raise ValueError(f"{piece.path.name} ended while it was read")
                    left -= len(block)
                    yield block

    def tensor(self) -> Tensor:
        """The whole tensor."""
        if not self.size:
            return torch.empty(self.shape, dtype=DTYPES[self.dtype])
        whole = torch.empty(self.size, dtype=torch.uint8)
        numbers, place = whole.numpy(), 0
        for block in self.blocks():
            numbers[place : place + len(block)] = numpy.frombuffer(block, numpy.uint8)
            place += len(block)
        return whole.view(DTYPES[self.dtype]).view(self.shape)


def sharded_tensors(files: Sequence[Path]) -> dict[str, Sharded]:
    """The tensors in these files by name, according to the headers; the rest is not read.

    Raises `ValueError` with the reason if the pieces of a tensor overlap, leave gaps or are not rows of it, `UserError`
    if a path is not a regular file, and `OSError` if it cannot be read.
    """
    found: dict[str, list[tuple[Entry, Piece]]] = {}
    for path in files:
        entries, texts = entries_in(path)
        offsets = _offsets(texts)
        for name, entry in entries.items():
            found.setdefault(name, []).append((entry, _piece(path, name, entry, offsets.get(name))))
    return {name: _assembled(name, parts) for name, parts in sorted(found.items())}


def _offsets(texts: Mapping[str, str]) -> dict[str, list[int]]:
    """Where the pieces of each tensor in a file begin; nothing for a file of whole tensors."""
    try:
        table = json.loads(texts.get(_INFO, "{}"))
        return {name: entry[_OFFSETS] for name, entry in table.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError("its header does not say which rows it has") from None


def _piece(path: Path, name: str, entry: Entry, offsets: list[int] | None) -> Piece:
    offsets = [0] * len(entry.shape) if offsets is None else offsets
    right = isinstance(offsets, list) and len(offsets) == len(entry.shape) and all(map(is_count, offsets))
    if not right or any(offsets[1:]):
        raise ValueError(f"{name[:80]!r} is not divided by rows")
    if entry.dtype not in DTYPES:
        raise ValueError(f"{name[:80]!r} has numbers of the unknown type {entry.dtype[:20]!r}")
    if math.prod(entry.shape) * DTYPES[entry.dtype].itemsize != entry.end - entry.start:
        raise ValueError(f"{name[:80]!r} has another size than its shape")
    return Piece(path, entry.start, entry.end, *(offsets[:1] or [0]), *(entry.shape[:1] or [1]))


def _assembled(name: str, parts: list[tuple[Entry, Piece]]) -> Sharded:
    parts = sorted(parts, key=lambda part: (part[1].row, part[1].rows))
    first = parts[0][0]
    row = 0
    for entry, piece in parts:
        if (entry.dtype, entry.shape[1:], len(entry.shape)) != (first.dtype, first.shape[1:], len(first.shape)):
            raise ValueError(f"the pieces of {name[:80]!r} do not fit together")
        if piece.row != row:
            raise ValueError(f"rows of {name[:80]!r} are missing, or there twice")
        row += piece.rows
    shape = (row, *first.shape[1:]) if first.shape else ()
    return Sharded(first.dtype, shape, tuple(piece for _, piece in parts))


def whole_file(tensors: Mapping[str, Sharded]) -> Iterator[bytes]:
    """The content of a file of these tensors, whole, in blocks: the memory holds one block of one tensor at a time.

    The order of the tensors is that of `safetensors`: by type, the widest ones first, then by name.
    """
    rank = {name: number for number, name in enumerate(_ORDER)}
    ordered = dict(sorted(tensors.items(), key=lambda item: (-rank[item[1].dtype], item[0])))
    head = header_of({name: (each.dtype, each.shape, each.size) for name, each in ordered.items()})
    return itertools.chain([head], (block for each in ordered.values() for block in each.blocks()))


_ORDER = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
"""How `safetensors` orders the types, the last ones first."""
