"""Tensors that lie in files and are mapped from there, so that they take no memory of the process.

The system reads the parts that are used and drops them again when memory is short. Such tensors must not be written to:
they are mapped for reading, and a program that writes to them is ended by the system.
"""

import math
import mmap
import os
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffcore.system.files import open_regular

_MAPPINGS: "weakref.WeakValueDictionary[int, mmap.mmap]" = weakref.WeakValueDictionary()
"""The mappings that were made here, by their first address."""


def mapped(path: Path, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The tensor of a shape and a type whose values, in the order of rows, are the content of the file `path`.

    Raises `ValueError` if the file has another size, `UserError` if it is not a regular file, and `OSError` if it
    cannot be opened or mapped.
    """
    size = math.prod(shape) * dtype.itemsize
    with os.fdopen(open_regular(path), "rb") as file:
        if (found := os.fstat(file.fileno()).st_size) != size:
            raise ValueError(f"it has {found:,} bytes instead of {size:,}")
        if not size:
            return torch.empty(tuple(shape), dtype=dtype)
        content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the buffer cannot be written, which is wanted
        tensor = torch.frombuffer(content, dtype=dtype)
    _MAPPINGS[tensor.data_ptr()] = content
    return tensor.view(tuple(shape))


def _mapping(tensor: Tensor) -> mmap.mmap | None:
    """What the values of a tensor are mapped by, or None."""
    if tensor.device.type != "cpu":
        return None
    return _MAPPINGS.get(tensor.untyped_storage().data_ptr())


def is_mapped(tensor: Tensor) -> bool:
    """Whether the values of a tensor lie in a file that `mapped` has mapped."""
    return _mapping(tensor) is not None


def expect_random_reads(tensor: Tensor) -> None:
    """Tell the system that rows of a mapped tensor are read in any order: it then reads nothing around them."""
    _advise(_mapping(tensor), "MADV_RANDOM")


def expect_rows(tensor: Tensor, rows: Tensor) -> None:
    """Tell the system that these rows, int64 `[n]`, of a mapped tensor are read next: it reads them side by side."""
    mapping = _mapping(tensor)
    size = tensor[:1].numel() * tensor.element_size()
    if mapping is None or not tensor.is_contiguous() or not size:
        return
    first = tensor.storage_offset() * tensor.element_size()
    for row in rows.tolist():
        start = (first + row * size) // mmap.PAGESIZE * mmap.PAGESIZE
        _advise(mapping, "MADV_WILLNEED", start, first + (row + 1) * size - start)


def _advise(mapping: mmap.mmap | None, advice: str, *place: int) -> None:
    """Give an advice, where the platform takes it."""
    if mapping is not None and hasattr(mmap, advice):
        mapping.madvise(getattr(mmap, advice), *place)
