"""Tensors in safetensors files, which may be damaged or made by somebody else.

Loading such a file cannot execute code: it consists of a JSON header and plain numbers. The header is checked before
any tensor is made.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from diffcore.system.files import is_count, open_regular, parse_json

MOST_HEADER = 16 * 2**20
"""Maximum size of the header of a safetensors file, in bytes."""

_MALFORMED = (SafetensorError, ValueError, KeyError, TypeError, RecursionError, RuntimeError, OverflowError)
"""The exceptions that malformed content raises."""


def content_of(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a file with these tensors, by name."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def tensors_in(content: bytes) -> dict[str, Tensor]:
    """The tensors of a file with this content, by name. Raises `ValueError` with the reason if it is malformed."""
    try:
        _check_header(content, len(content))
        return load(content)
    except _MALFORMED as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its type by its name in the format, its shape, and its bytes from `start` to `end`.

    The bytes are counted from the beginning of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def entries_in(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of a file by name, and the texts beside them, according to its header; the rest is not read.

    Raises `ValueError` with the reason if the header is malformed, `UserError` if the path is not a regular file, and
    `OSError` if it cannot be read.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        head += file.read(min(int.from_bytes(head, "little"), MOST_HEADER))
    try:
        _check_header(head, size)
        table = parse_json(head[8:])
        texts = table.pop("__metadata__", {})
        entries = {}
        for name, entry in table.items():
            start, end = entry["data_offsets"]
            entries[name] = Entry(str(entry["dtype"]), tuple(entry["shape"]), len(head) + start, len(head) + end)
        return entries, {str(name): str(text) for name, text in texts.items()}
    except (*_MALFORMED, AttributeError) as error:
        raise ValueError(str(error)) from None


def numbers_in(path: Path) -> int:
    """How many values the tensors of a file have according to its header; the rest is not read. Raises as above."""
    return sum(math.prod(entry.shape) for entry in entries_in(path)[0].values())


def header_of(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """The beginning of a file whose tensors follow in this order: by name, the type, the shape and the bytes of each.

    The header is filled up with spaces to a multiple of 8 bytes, as the format asks for.
    """
    table, start = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        table[name] = {"dtype": dtype, "shape": [*shape], "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _check_header(head: bytes, size: int) -> None:
    """Check the header of a safetensors file of `size` bytes that begins with the bytes `head`.

    The first eight bytes are the length of the header, a JSON table of the type, the shape and the byte range of each
    tensor. The ranges must cover the rest of the file without gaps and overlaps. Raises `ValueError` if they do not.
    """
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(MOST_HEADER, size - 8):
        raise ValueError(f"its header would have {length:,} bytes")
    table = parse_json(head[8 : 8 + length])
    if not isinstance(table, dict):
        raise ValueError("its header is no table")
    places = []
    for key, entry in table.items():
        if key == "__metadata__":
            continue
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        if not all(is_count(value) for value in (*shape, start, end)) or len(shape) > 16:
            raise ValueError(f"{key[:80]!r} has no shape or place")
        places.append((start, end))
    position = 0
    for start, end in sorted(places):
        if start != position or end < start:
            raise ValueError("its tensors overlap, or leave gaps")
        position = end
    if position != size - 8 - length:
        raise ValueError(f"its tensors take {position:,} bytes of {size - 8 - length:,}")
