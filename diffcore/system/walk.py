"""The files under a folder.

A file system is not a tree: links lead back up or to the same file twice, folders cannot be opened, pipes and devices
lie beside files, and the kernel shows its own state as folders. Each real file is found once, and everything else is
returned with the reason why it was passed over.
"""

import logging
import os
import stat
import time
from collections import defaultdict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffcore.errors import UserError

logger = logging.getLogger(__name__)

MOST_ENTRIES = 5_000_000
"""The number of files and folders that are looked at, at most."""

_LINE_EVERY = 10.0
"""Seconds between the lines that say how far the search is."""

_NOT_DATA = frozenset(("__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN", "System Volume Information"))
"""Folders that systems put beside the files of users."""

_OF_THE_KERNEL = frozenset(
    (
        *("proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "debugfs", "tracefs", "securityfs", "pstore"),
        *("bpf", "configfs", "fusectl", "mqueue", "hugetlbfs", "binfmt_misc", "efivarfs", "nsfs", "rpc_pipefs"),
    )
)
"""Types of file systems whose files are not stored anywhere."""

TWICE = "links to what is found elsewhere in the folder"
DANGLING = "links that lead nowhere"
SPECIAL = "pipes, sockets and devices"
KERNEL = "folders in which the system shows its own state"


@dataclass(frozen=True)
class Listing:
    """The regular files under a folder, as paths relative to it, in the order of their names."""

    files: tuple[str, ...]
    passed_over: Mapping[str, tuple[str, ...]]
    """What was found but is not in `files`, by reason."""
    unreadable: Mapping[str, str]
    """The folders that could not be opened, each with the message of the system."""


def walk(root: Path) -> Listing:
    """Find all files under `root` that are not hidden, nor in a hidden folder. Links are followed.

    A file or folder to which several paths lead is found once, under the first path without a link if there is one.

    Raises `UserError` if `root` cannot be opened, or has more than `MOST_ENTRIES` files and folders.
    """
    search = _Search(root)
    search.folders.append("")
    while search.folders or search.links:
        if search.folders:
            search.open(search.folders.pop())
        else:  # links come last, so that a file is found where it lies and not through a link to it
            search.follow(search.links.popleft())
    if reason := search.unreadable.get(""):
        raise UserError(f"the folder {root} cannot be opened: {reason}")
    files = sorted(search.files, key=lambda path: Path(path).parts)
    passed_over = {why: tuple(sorted(paths)) for why, paths in search.passed_over.items()}
    return Listing(tuple(files), passed_over, dict(sorted(search.unreadable.items())))


class _Search:
    """The state of one search: what is found, what is still to be looked at, and what has been seen."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[str] = []
        self.folders: list[str] = []
        self.links: deque[str] = deque()
        self.passed_over: defaultdict[str, list[str]] = defaultdict(list)
        self.unreadable: dict[str, str] = {}
        self._seen: dict[tuple[int, int], str] = {}
        self._kernel = _kernel_devices()
        self._entries, self._told = 0, time.monotonic()

    def open(self, folder: str) -> None:
        """Add what lies directly in a folder."""
        try:
            status = (self.root / folder).stat()
            if status.st_dev in self._kernel:
                self.passed_over[KERNEL].append(folder)
                return
            if self._is_seen((status.st_dev, status.st_ino), folder):
                return
            with os.scandir(self.root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable[folder] = error.strerror or str(error)
            return
        self._count(len(entries))
        inner = []
        for entry in entries:
            if is_hidden(entry.name):
                continue
            path = f"{folder}{os.sep}{entry.name}" if folder else entry.name
            if entry.is_symlink():
                self.links.append(path)
            elif entry.is_dir(follow_symlinks=False):
                inner.append(path)
            elif not entry.is_file(follow_symlinks=False):
                self.passed_over[SPECIAL].append(path)
            elif not self._is_seen((status.st_dev, entry.inode()), path):
                self.files.append(path)
        self.folders += reversed(inner)

    def follow(self, link: str) -> None:
        """Add what a link leads to."""
        try:
            status = (self.root / link).stat()
        except OSError:
            self.passed_over[DANGLING].append(link)
            return
        if stat.S_ISDIR(status.st_mode):
            self.folders.append(link)
        elif not stat.S_ISREG(status.st_mode):
            self.passed_over[SPECIAL].append(link)
        elif not self._is_seen((status.st_dev, status.st_ino), link):
            self.files.append(link)

    def _is_seen(self, identity: tuple[int, int], path: str) -> bool:
        """Whether another path has led to this file or folder; it is then passed over.

        Numbers of inodes that were read from a folder are not unique on every file system, so equal ones are checked.
        """
        first = self._seen.setdefault(identity, path)
        if first == path:
            return False
        try:
            same = (self.root / first).samefile(self.root / path)
        except OSError:
            same = False
        if same:
            self.passed_over[TWICE].append(path)
        return same

    def _count(self, entries: int) -> None:
        self._entries += entries
        if self._entries > MOST_ENTRIES:
            raise UserError(f"{self.root} has more than {MOST_ENTRIES:,} files and folders: choose a smaller folder")
        if time.monotonic() - self._told > _LINE_EVERY:
            self._told = time.monotonic()
            logger.info(f"looking for files in {self.root}: {self._entries:,} files and folders so far")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or is one of those that systems put beside the files of users."""
    return name.startswith(".") or name in _NOT_DATA


def _kernel_devices() -> Collection[int]:
    """The device numbers of the mounted file systems that are not stored anywhere; none if the system has no list."""
    devices = set()
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ()
    for line in lines:
        mount, _, source = line.partition(" - ")
        if source.split(" ")[0] in _OF_THE_KERNEL:
            major, minor = mount.split(" ")[2].split(":")
            devices.add(os.makedev(int(major), int(minor)))
    return devices
