"""A cache of what can be computed again, such as the weights of judges and parsed data.

An entry of the cache is one file: a header with a SHA-256 digest, and the content. The digest covers the name of the
entry and its content, so a changed byte, a shortened file and an entry under the name of another are all noticed. What
is not an intact regular file counts as missing: it is computed again and replaced.
"""

import hashlib
import logging
import os
from pathlib import Path

from diffcore.errors import UserError
from diffcore.system.files import open_regular, write_atomically

logger = logging.getLogger(__name__)

_MAGIC = b"diffcore cache 1\n"
_HEADER = len(_MAGIC) + 65
"""Bytes before the content: the magic line, and the digest in hexadecimal digits with a newline."""


def cache_folder() -> Path:
    """`$DIFFCORE_CACHE`, or `diffcore` in the user's cache folder. It need not exist, nor be writable.

    Without either, as for a user without a home folder, it is a path at which nothing can exist.
    """
    if folder := os.environ.get("DIFFCORE_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "diffcore"
    try:
        return Path.home() / ".cache" / "diffcore"
    except RuntimeError:
        return Path(os.devnull) / "diffcore"


def read_entry(path: Path) -> bytes | None:
    """The content of a cache entry; None if there is none, or if it is damaged, which is logged as a warning.

    Links, folders, pipes and devices are never opened for reading: they count as damaged entries.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            header = file.read(_HEADER)
            # A file that does not begin like an entry is not read further: it may have any size.
            content = file.read() if header.startswith(_MAGIC) else b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    except MemoryError:
        tell_damage(path, "it is larger than the memory")
        return None
    except UserError:
        tell_damage(path, "it is not a regular file")
        return None
    except OSError as error:
        tell_damage(path, str(error))
        return None
    if header != _header(path, content):
        tell_damage(path, "its digest is wrong, or another version of diffcore wrote it")
        return None
    return content


def write_entry(path: Path, content: bytes) -> bool:
    """Write a cache entry atomically, and return whether that was possible: a cache may not be writable.

    If it was not, a warning says so.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _header(path, content) + content)
        return True
    except OSError as error:
        reason = f"{path.parent} cannot be written: {error.strerror}"
        if path.is_relative_to(os.devnull):
            reason = "this user has no home folder"
        logger.warning(f"{path.name} is not cached ({reason}); the variable DIFFCORE_CACHE can name a folder")
        return False


def _header(path: Path, content: bytes) -> bytes:
    digest = hashlib.sha256(path.name.encode(errors="surrogateescape") + b"\0")
    digest.update(content)
    return _MAGIC + digest.hexdigest().encode() + b"\n"


def tell_damage(path: Path, why: str) -> None:
    """Log that a cache entry cannot be used."""
    logger.warning(f"the cache entry {path} cannot be used ({why}): its content is computed again")
