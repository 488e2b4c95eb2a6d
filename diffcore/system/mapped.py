"""Tensors that lie in files and are mapped from there, so that they take no memory of the process.

The system reads the parts that are used and drops them again when memory is short. Such tensors must not be written to:
they are mapped for reading, and a program that writes to them is ended by the system.
"""

import json
import math
import mmap
import os
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffcore.states.state import fields
from diffcore.system.files import open_regular

if TYPE_CHECKING:
    from tensordict import TensorDict


@dataclass(frozen=True)
class Origin:
    """Where mapped values come from."""

    folder: Path
    """The folder of the set of shards that they belong to."""
    identity: str
    """A text that changes whenever the values do, known without reading them."""


class _Mapping(mmap.mmap):
    """What values are mapped by, with their origin if it is known."""

    origin: Origin | None = None


_MAPPINGS: "weakref.WeakValueDictionary[int, _Mapping]" = weakref.WeakValueDictionary()
"""The mappings that were made here, by their first address."""


def mapped(path: Path, shape: Sequence[int], dtype: torch.dtype, origin: Origin | None = None) -> Tensor:
    """The tensor of a shape and a type whose values, in the order of rows, are the content of the file `path`.

    `origin` says where the values come from, for `origin_of`.

    Raises `ValueError` if the file has another size, `UserError` if it is not a regular file, and `OSError` if it
    cannot be opened or mapped.
    """
    size = math.prod(shape) * dtype.itemsize
    with os.fdopen(open_regular(path), "rb") as file:
        if (found := os.fstat(file.fileno()).st_size) != size:
            raise ValueError(f"it has {found:,} bytes instead of {size:,}")
        if not size:
            return torch.empty(tuple(shape), dtype=dtype)
        content = _Mapping(file.fileno(), size, access=mmap.ACCESS_READ)
        content.origin = origin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the buffer cannot be written, which is wanted
        tensor = torch.frombuffer(content, dtype=dtype)
    _MAPPINGS[tensor.data_ptr()] = content
    return tensor.view(tuple(shape))


def _mapping(tensor: Tensor) -> _Mapping | None:
    """What the values of a tensor are mapped by, or None."""
    if tensor.device.type != "cpu":
        return None
    return _MAPPINGS.get(tensor.untyped_storage().data_ptr())


def is_mapped(tensor: Tensor) -> bool:
    """Whether the values of a tensor lie in a file that `mapped` has mapped."""
    return _mapping(tensor) is not None


def any_mapped(examples: "TensorDict") -> bool:
    """Whether a column of the examples is mapped from a file, so that reading them may take time."""
    return any(map(is_mapped, fields(examples).values()))


def origin_of(tensor: Tensor) -> Origin | None:
    """Where the values of a mapped tensor come from, None if that is not known.

    The identity is that of these values: of their place in the file, their shape and their type too.
    """
    mapping = _mapping(tensor)
    if mapping is None or mapping.origin is None:
        return None
    first = tensor.storage_offset() * tensor.element_size()
    part = [mapping.origin.identity, first, [*tensor.shape], [*tensor.stride()], str(tensor.dtype)]
    return Origin(mapping.origin.folder, json.dumps(part))


def expect_random_reads(tensor: Tensor) -> None:
    """Tell the system that rows of a mapped tensor are read in any order: it then reads nothing around them."""
    _advise(_mapping(tensor), "MADV_RANDOM")


def expect_rows(tensor: Tensor, rows: Tensor) -> None:
    """Tell the system that these rows, int64 `[n]`, of a mapped tensor are read next: it reads them side by side."""
    mapping = _mapping(tensor)
    size = tensor[:1].numel() * tensor.element_size()
    if mapping is None or not size or not tensor[0].is_contiguous():
        return
    first, step = (number * tensor.element_size() for number in (tensor.storage_offset(), tensor.stride(0)))
    for row in rows.tolist():
        start = (first + row * step) // mmap.PAGESIZE * mmap.PAGESIZE
        _advise(mapping, "MADV_WILLNEED", start, first + row * step + size - start)


def _advise(mapping: mmap.mmap | None, advice: str, *place: int) -> None:
    """Give an advice, where the platform takes it."""
    if mapping is not None and hasattr(mmap, advice):
        mapping.madvise(getattr(mmap, advice), *place)
