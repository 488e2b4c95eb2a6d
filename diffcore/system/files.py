"""Files that a machine may fail to write, and that somebody else may have made.

What is written is there whole or not at all. What is read is a regular file of bounded size that lies where its path
says: links, pipes and devices are refused, so a folder that somebody sent can neither reach out of itself nor hang
its reader.
"""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from diffcore.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

MOST_JSON = 16 * 2**20
"""Bytes of a JSON or TOML file, at most."""

DEEPEST = 32
"""How deeply values of a JSON or TOML file are nested, at most."""

LONGEST_LINE = 64 * 2**10
"""Bytes of a line of a file that is read line by line, at most."""

_LARGEST = 1e300
"""No number of use is larger; beyond it sums and squares of what is read would overflow."""

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
"""Opening follows no link and waits for nobody at the other end of a pipe."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that, whatever happens, the old content or the new one is there, whole.

    An `OSError` names the file, also where the system's own does not (a full disk). A link at `path` is replaced, not
    followed.
    """
    write_blocks_atomically(path, (content,))


def write_blocks_atomically(path: Path, blocks: Iterable[bytes]) -> None:
    """The same for a content that is made block by block, and need not fit into the memory."""
    try:
        with _new_part(path) as file:
            part = Path(file.name)
            for block in blocks:
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)  # while it is open, and so locked
        sync_folder(path.parent)
    except OSError as error:
        error.filename = str(path)
        raise


@contextlib.contextmanager
def _new_part(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path`, under a name that no other process and no other container uses.

    It is locked until the context ends, so that `delete_abandoned` does not take it for that of a killed process, and
    deleted at the end unless it was renamed.
    """
    while True:
        part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.part")
        try:
            with part.open("xb") as file:
                _try_to_lock(file.fileno())
                if not os.fstat(file.fileno()).st_nlink:  # deleted before it was locked
                    continue
                yield file
                return
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def delete_abandoned(part: Path) -> None:
    """Delete an incomplete file of `write_atomically` unless a living process is writing it."""
    with contextlib.suppress(OSError, UserError), os.fdopen(open_regular(part), "rb") as file:
        if _try_to_lock(file.fileno()):
            part.unlink(missing_ok=True)


def _try_to_lock(descriptor: int) -> bool:
    """Lock a file for as long as it is open; False if another process has locked it.

    True also where files cannot be locked.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def require_writable(folder: Path) -> None:
    """Raise `OSError` that names the folder if no file can be written in it, so that it is known before long work."""
    part = folder / f".{secrets.token_hex(6)}.part"
    try:
        part.write_bytes(b"x")
        part.unlink(missing_ok=True)  # `delete_abandoned` of another process may have been quicker
    except OSError as error:
        error.filename = str(folder)
        raise


def sync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk, where the platform can: a rename is else lost with the power."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_back(path: Path) -> bytes:
    """What a file that was just written holds, from the disk itself where the platform lets its copy be dropped."""
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a regular file in hexadecimal digits, read block by block, from the disk itself as `read_back`."""
    digest = hashlib.sha256()
    with os.fdopen(open_regular(path), "rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while block := file.read(2**24):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """`value` as readable JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


_SUM = "sha256"


def write_summed_json(path: Path, table: Mapping[str, Any]) -> None:
    """Write `table` as JSON with a SHA-256 of its other values under the key `sha256`."""
    write_json(path, {**table, _SUM: digest_of(table)})


def read_summed_json(path: Path) -> Any:
    """The value of a JSON file without its SHA-256. Raises `UserError` like `read_json`.

    If the values are not those that the digest was computed of, this is logged as a warning: somebody has edited the
    file, or it is damaged. A file without a digest is accepted.
    """
    value = read_json(path)
    if not isinstance(value, dict) or _SUM not in value:
        return value
    stored = value.pop(_SUM)
    if stored != digest_of(value):
        logger.warning(
            f"{path} is not as it was written: it was edited, or it is damaged; if you edited it, remove the line "
            f'"{_SUM}" from it'
        )
    return value


def digest_of(table: Mapping[str, Any]) -> str:
    """The SHA-256 of a table as JSON with sorted keys, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file. Raises `UserError` for a link, a folder, a pipe or a device; else `OSError`."""
    try:
        descriptor = os.open(path, flags | _FLAGS, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO) or path.is_symlink() or path.is_dir():
            raise UserError(_irregular(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(_irregular(path))
    return descriptor


def _irregular(path: Path) -> str:
    what = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "a pipe or a device"
    return f"{path} is {what}, not a file: it is refused, as what a run holds must lie in its own folder"


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises `UserError`, or `FileNotFoundError`."""
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UserError(f"{path} has {size:,} bytes; at most {most:,} are read")
        return file.read(size)  # not `most`, for which Python would reserve memory


def utf8_lines(content: bytes, what: str) -> list[str]:
    """The lines of a text in UTF-8, with or without a byte order mark, whichever system wrote it.

    Only ends of lines separate them, not the other characters at which `str.splitlines` splits. Raises `UserError` that
    names `what` and the line if it is not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{what}, line {line}: this is not UTF-8; save the file as UTF-8") from None
    return re.split(r"\r\n|\r|\n", text)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a regular file, which is made where there is none. An `OSError` names the file."""
    try:
        descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        error.filename = str(path)
        raise


def read_lines(path: Path) -> Iterator[tuple[bytes | None, int]]:
    """The whole lines of a regular file with their sizes in bytes, one by one; None in place of one that is too long.

    A last line without an end is left out.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = 0
        while part := file.readline(LONGEST_LINE):
            size += len(part)
            if part.endswith(b"\n"):
                yield part[:-1] if size == len(part) else None, size
                size = 0


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises `UserError` if it is missing, not a regular file, too large or too deep, or holds NaN or infinity, and
    `OSError` if the system refuses to read it, as for want of permission: then it need not be damaged.
    """
    try:
        return parse_json(read_regular(path, MOST_JSON))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None


def parse_json(content: bytes) -> Any:
    """The value of a JSON text. Raises `ValueError` or `RecursionError`."""
    value = json.loads(content.decode(), parse_constant=_no_number, parse_float=_number)
    require_shallow(value)
    return value


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is not a number of JSON")


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is too large a number")
    return value


def require_shallow(value: Any) -> None:
    """Raise `ValueError` where tables and lists are nested more than `DEEPEST` deep."""
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = [item for item in level if isinstance(item, dict | list)]
        if not inner:
            return
        level = [below for item in inner for below in (item.values() if isinstance(item, dict) else item)]
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def is_count(value: Any) -> bool:
    """Whether a value of a file is a whole number from 0 on that fits into 60 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60


def is_number(value: Any) -> bool:
    """Whether a value out of JSON is a number that can be reckoned with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def memory() -> int:
    """Bytes of memory that this machine has; 16 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 16 * 2**30
