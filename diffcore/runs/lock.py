"""One process at a time trains a run: a lock on its folder.

Beside the lock itself, `.run.lock`, a file `.run.holder` says who holds it. The lock is the operating system's (flock),
so it ends with its process however that ends. Who only reads a run takes no lock.
"""

import contextlib
import os
import platform
from collections.abc import Iterator
from datetime import datetime

from filelock import FileLock, Timeout

from diffcore.errors import UserError
from diffcore.runs.folder import RunFolder, clean
from diffcore.system.distributed import by_leader
from diffcore.system.files import read_json, write_json


@contextlib.contextmanager
def held(run: RunFolder) -> Iterator[None]:
    """Hold a run's lock, and first clean up what a process that was killed has left; of several processes, the leader.

    Raises `UserError` that names the process, where another one holds it.
    """
    with contextlib.ExitStack() as stack:
        by_leader(lambda: stack.enter_context(_held(run)))
        yield


@contextlib.contextmanager
def _held(run: RunFolder) -> Iterator[None]:
    path, holder = run.path / ".run.lock", run.path / ".run.holder"
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise UserError(f"{path} is not a file; delete it")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{run.path} is being trained already{_by(run)}; wait for it, or stop it with Ctrl-C there"
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
    """Who holds the lock, in words; nothing where that is not known."""
    try:
        said = read_json(run.path / ".run.holder")
        return f" by process {int(said['pid'])} on {str(said['host'])[:80]!r}, since {str(said['started'])[:25]!r}"
    except (UserError, KeyError, TypeError, ValueError, OverflowError):
        return ""
