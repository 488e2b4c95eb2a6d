"""Tensors that lie in files and are mapped from there, so that they take no memory of the process.

The system reads the parts that are used and drops them again when memory is short. Such tensors must not be written to:
they are mapped for reading, and a program that writes to them is ended by the system.
"""

import math
import mmap
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffcore.system.files import open_regular

_RANGES: dict[int, int] = {}
"""The first address of each mapping that was made here, and the one behind its last."""


def mapped(path: Path, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The tensor of a shape and a type whose values, in the order of rows, are the content of the file `path`.

    Raises `ValueError` if the file has another size, `UserError` if it is not a regular file, and `OSError` if it
    cannot be opened or mapped.
    """
    size = math.prod(shape) * dtype.itemsize
    with os.fdopen(open_regular(path), "rb") as file:
        if (found := os.fstat(file.fileno()).st_size) != size:
            raise ValueError(f"{path} has {found:,} bytes instead of {size:,}")
        if not size:
            return torch.empty(tuple(shape), dtype=dtype)
        content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the buffer cannot be written, which is wanted
        tensor = torch.frombuffer(content, dtype=dtype)
    _RANGES[tensor.data_ptr()] = tensor.data_ptr() + size
    return tensor.view(tuple(shape))


def is_mapped(tensor: Tensor) -> bool:
    """Whether the values of a tensor on the CPU lie in a file that `mapped` has mapped."""
    if tensor.device.type != "cpu":
        return False
    place = tensor.untyped_storage().data_ptr()
    return any(start <= place < end for start, end in _RANGES.items())
