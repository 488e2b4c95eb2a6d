"""Entries of the cache that hold tensors by name."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from diffcore.system.cache import read_entry, tell_damage, write_entry
from diffcore.system.tensor_file import content_of, tensors_in


def read_tensors_entry(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a cache entry; None if there is none, or if it is damaged, which is logged as a warning."""
    content = read_entry(path)
    try:
        return None if content is None else tensors_in(content)
    except ValueError as error:
        tell_damage(path, str(error))
        return None


def write_tensors_entry(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Write tensors as a cache entry, and return whether that was possible (`diffcore.system.cache.write_entry`)."""
    return write_entry(path, content_of(tensors))
