"""Tensors in safetensors files, which may be damaged or made by somebody else.

Loading such a file cannot execute code: it consists of a JSON header and plain numbers. The header is checked before
any tensor is made.
"""

import math
import os
from collections.abc import Mapping
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


def numbers_in(path: Path) -> int:
    """How many values the tensors of a file have according to its header; the rest is not read.

    Raises `ValueError` with the reason if the header is malformed, `UserError` if the path is not a regular file, and
    `OSError` if it cannot be read.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        head += file.read(min(int.from_bytes(head, "little"), MOST_HEADER))
    try:
        return _check_header(head, size)
    except _MALFORMED as error:
        raise ValueError(str(error)) from None


def _check_header(head: bytes, size: int) -> int:
    """The number of values in a safetensors file of `size` bytes that begins with the bytes `head`.

    The first eight bytes are the length of the header, a JSON table of the type, the shape and the byte range of each
    tensor. The ranges must cover the rest of the file without gaps and overlaps. Raises `ValueError` if they do not.
    """
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(MOST_HEADER, size - 8):
        raise ValueError(f"its header would have {length:,} bytes")
    table = parse_json(head[8 : 8 + length])
    if not isinstance(table, dict):
        raise ValueError("its header is no table")
    total, places = 0, []
    for key, entry in table.items():
        if key == "__metadata__":
            continue
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        if not all(is_count(value) for value in (*shape, start, end)) or len(shape) > 16:
            raise ValueError(f"{key[:80]!r} has no shape or place")
        total += math.prod(shape)
        places.append((start, end))
    position = 0
    for start, end in sorted(places):
        if start != position or end < start:
            raise ValueError("its tensors overlap, or leave gaps")
        position = end
    if position != size - 8 - length:
        raise ValueError(f"its tensors take {position:,} bytes of {size - 8 - length:,}")
    return total
