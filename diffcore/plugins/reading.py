"""Reading whole samples with the reader of a kind of data, which knows sizes where they vary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from diffcore.errors import UserError
from diffcore.states.spaces import Mask
from diffcore.states.state import State, concatenate


def read_one(reader: Any, path: Path, task: str, modality: str) -> tuple[State, Mask]:
    """The encoded sample `[1, ...]` in a file, and the elements that exist, `[1, N]`; None if all always do.

    Raises `UserError`, which names the `task` and the `modality`, if the reader reads no files of whole samples.
    """
    if hasattr(reader, "read_sized"):
        state, mask = reader.read_sized(path)
        return state, mask
    if not hasattr(reader, "read"):
        raise UserError(f"`{task}`: the plugin for {modality} cannot read files of whole samples")
    return reader.read(path), None


def read_all(reader: Any, paths: Sequence[Path], task: str, modality: str) -> tuple[State, Mask]:
    """The encoded contents of files, as one batch, and the elements that exist; see `read_one`."""
    read = [read_one(reader, path, task, modality) for path in paths]
    masks = [mask for _, mask in read if mask is not None]
    return concatenate([state for state, _ in read]), torch.cat(masks) if masks else None
