"""Where things are kept that can be made anew."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from diffcore.system.files import write_atomically


def cache_folder() -> Path:
    """`$DIFFCORE_CACHE`, or `diffcore` in the user's cache folder. It need not exist, nor be writable."""
    if folder := os.environ.get("DIFFCORE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffcore"


def trained_once(network: nn.Module, path: Path, train: Callable[[], None]) -> None:
    """Put the weights of the file `path` into a network, or have `train` find them and keep them there.

    A file that is damaged, or of another network, is as none. Without a place to keep them they are found each time.
    """
    try:
        network.load_state_dict(load(path.read_bytes()))
    except (OSError, SafetensorError, RuntimeError):
        train()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(network.state_dict()))
