"""A lock on the run folder, so that only one process trains a run at a time.

The file `.run.lock` is the lock, and `.run.holder` describes the process that holds it. It is a lock of the operating
system (flock), which is released whenever its process ends, also by a crash. Reading a run needs no lock.
"""

import contextlib
import errno
import logging
import os
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from diffcore.errors import UserError
from diffcore.runs.folder import RunFolder, clean
from diffcore.system.distributed import by_leader
from diffcore.system.files import read_json, write_json

logger = logging.getLogger(__name__)

LOCK = ".run.lock"
"""The name of the file that is locked."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems without locks answer, such as some network drives."""


@contextlib.contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Context manager that holds the lock of a run, after deleting the temporary files of killed processes.

    With several processes, the leader holds it. Raises `UserError` that names the process if another one
    holds it.
    """
    with contextlib.ExitStack() as stack:
        by_leader(lambda: stack.enter_context(_locked(run)))
        yield


def acquire(path: Path, otherwise: str) -> FileLock:
    """The lock of the file `path`, held. Raises `filelock.Timeout` if another process holds it.

    If the file system has no locks, `otherwise` is logged as a warning. The mere existence of a lock file means
    nothing: it stays after the lock is released, and is copied with its folder.
    """
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(otherwise)
    return lock


@contextlib.contextmanager
def _locked(run: RunFolder) -> Iterator[None]:
    path, holder = run.path / LOCK, run.path / ".run.holder"
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise UserError(f"{path} is not a file; delete it")
    no_locks = f"the file system of {run.path} has no locks: make sure that no other process trains this run"
    try:
        lock = acquire(path, no_locks)
    except Timeout:
        shared = path.stat().st_nlink > 1
        hint = f", or, if this run is a copy made of hard links, delete {path}" if shared else ""
        raise UserError(
            f"{run.path} is already being trained{_by(run)}; wait until it ends, or stop it there with Ctrl-C{hint}"
        ) from None
    try:
        clean(run)
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(holder, {"pid": os.getpid(), "host": platform.node(), "started": started})
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _by(run: RunFolder) -> str:
    """Which process holds the lock, in words; an empty string if that is unknown."""
    try:
        holder = read_json(run.path / ".run.holder")
        return (
            f" by process {int(holder['pid'])} on {str(holder['host'])[:80]!r}, since {str(holder['started'])[:25]!r}"
        )
    except (UserError, OSError, KeyError, TypeError, ValueError, OverflowError):
        return ""
