"""A cache of what can be computed again, such as the weights of judges and parsed data.

An entry of the cache is one file: a header with a SHA-256 digest, and the content. The digest covers the name of the
entry and its content, so a changed byte, a shortened file and an entry under the name of another are all noticed. What
is not an intact regular file counts as missing: it is computed again and replaced.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from diffcore.errors import UserError
from diffcore.system.files import open_regular, write_atomically

logger = logging.getLogger(__name__)

_MAGIC = b"diffcore cache 1\n"
_HEADER = len(_MAGIC) + 65
"""Bytes before the content: the magic line, and the digest in hexadecimal digits with a newline."""


def cache_folder() -> Path:
    """`$DIFFCORE_CACHE`, or `diffcore` in the user's cache folder. It need not exist, nor be writable."""
    if folder := os.environ.get("DIFFCORE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffcore"


def read_entry(path: Path) -> bytes | None:
    """The content of a cache entry; None if there is none, or if it is damaged, which is logged as a warning.

    Links, folders, pipes and devices are never opened for reading: they count as damaged entries.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            stored = file.read()
    except FileNotFoundError:
        return None
    except UserError:
        _tell_damage(path, "it is not a regular file")
        return None
    except OSError as error:
        _tell_damage(path, str(error))
        return None
    content = memoryview(stored)[_HEADER:]
    if stored[:_HEADER] != _header(path, content):
        _tell_damage(path, "its digest is wrong, or another version of diffcore wrote it")
        return None
    return bytes(content)


def write_entry(path: Path, content: bytes) -> bool:
    """Write a cache entry atomically, and return whether that was possible: a cache may not be writable."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _header(path, content) + content)
        return True
    return False


def trained_once(network: nn.Module, path: Path, train: Callable[[], None]) -> None:
    """Give `network` the weights of the cache entry `path`; if there are none, call `train` and cache what it found.

    An entry that is damaged, belongs to another network or contains numbers that are not finite counts as missing.
    Weights that are not finite after `train` are not cached.
    """
    weights = _weights(path)
    if weights is not None and _belong(network, weights):
        network.load_state_dict(weights)
        return
    train()
    state = network.state_dict()
    if _finite(state):
        write_entry(path, save(state))


def _weights(path: Path) -> dict[str, Tensor] | None:
    content = read_entry(path)
    try:
        return None if content is None else load(content)
    except SafetensorError as error:
        _tell_damage(path, str(error))
        return None


def _belong(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether weights are finite and have the names, shapes and types of those of the network."""

    def form(state: Mapping[str, Tensor]) -> dict[str, object]:
        return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}

    return form(weights) == form(network.state_dict()) and _finite(weights)


def _finite(state: Mapping[str, Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in state.values())


def _header(path: Path, content: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(path.name.encode(errors="surrogateescape") + b"\0")
    digest.update(content)
    return _MAGIC + digest.hexdigest().encode() + b"\n"


def _tell_damage(path: Path, why: str) -> None:
    logger.warning(f"the cache entry {path} cannot be used ({why}): its content is computed again")
