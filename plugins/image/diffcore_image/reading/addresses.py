"""Files at a place that a user names: a folder, a file, a pattern, or an address that fsspec reads."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from diffcore.errors import UserError, first_line
from diffcore.plugins.ledger import named

_HELD_OUT = {"test": "test", "val": "val", "valid": "val", "validation": "val"}
"""Words in the names of files and folders whose records are held out."""


@dataclass(frozen=True)
class Remote:
    """A file at a path of a file system of fsspec, which may be that of this machine."""

    system: Any
    path: str
    name: str
    """The path relative to the place that the user has named."""
    version: tuple[object, ...]
    """What changes whenever the content does: the size, and a time or tag where the file system has one."""

    def open(self) -> IO[bytes]:
        """The content of the file. Raises `UserError` if it cannot be read."""
        return reading(self.path, self.system.open, self.path, "rb")

    @property
    def part(self) -> str:
        """`test` or `val` if a word of the name says that its records are held out, else `train`."""
        path = PurePosixPath(self.name)
        words = [*reversed(path.parts[:-1]), path.stem]
        found = [_HELD_OUT[word] for text in words for word in re.split(r"[^a-z]+", text.lower()) if word in _HELD_OUT]
        return found[-1] if found else "train"


def reading(place: str, read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read(*arguments)` returns. Errors of files and of the network become a `UserError` that names the place."""
    try:
        return read(*arguments)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{place} cannot be read: {first_line(error)}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{place} cannot be read ({first_line(error)}): check that it is there, and whole") from None


def files_at(root: str | None, name: str, what: str, endings: Iterable[str], braces: bool = False) -> list[Remote]:
    """The files with one of `endings` at the place `root`, by name.

    The place is a file, a folder, a pattern with `*`, or an address of these that fsspec reads, such as `s3://...`.
    With `braces`, it may have numbers such as `{000..127}` too. `name` is the data set and `what` describes the files.
    Raises `UserError` if there are none.
    """
    if root is None:
        raise UserError(f"the data set {name!r} needs `data.root`, a folder, a file, a pattern or an address of {what}")
    import fsspec

    endings = tuple(endings)
    found: dict[str, Remote] = {}
    for place in _expanded(root) if braces else [root]:
        system, path = reading(place, fsspec.core.url_to_fs, place)
        for each in reading(place, _listed, system, path, endings):
            info = reading(each, system.info, each)
            version = tuple(info.get(key) for key in ("size", "mtime", "ETag", "etag", "LastModified", "mode"))
            found[each] = Remote(system, each, _relative(each, path), version)
    if not found:
        raise UserError(f"no {what} in {root}: files that end in {', '.join(endings)} are read")
    return [found[path] for path in sorted(found)]


def _listed(system: Any, path: str, endings: tuple[str, ...]) -> list[str]:
    if "*" in path:
        return [each for each in system.glob(path) if each.lower().endswith(endings)]
    if system.isdir(path):
        hidden = re.compile(r"(^|/)[._]")
        inside = [each for each in system.find(path) if not hidden.search(_relative(each, path))]
        return [each for each in inside if each.lower().endswith(endings)]
    if not system.exists(path):
        raise FileNotFoundError("there is no such file or folder")
    return [path]


def _relative(path: str, place: str) -> str:
    """A path as seen from the place that the user has named: a file or a pattern shows its own name only."""
    fixed = place.split("*")[0]
    start = fixed if path != place and "*" not in place else fixed.rpartition("/")[0]
    return path.removeprefix(start).lstrip("/") if start else path


def _expanded(root: str) -> list[str]:
    import braceexpand

    if "{" not in root:
        return [root]
    try:
        return list(braceexpand.braceexpand(root))
    except braceexpand.UnbalancedBracesError as error:
        raise UserError(f"`data.root` {root}: {first_line(error)}") from None


def split_parts(
    files: list[Remote], account_unused: Callable[[str, str], None]
) -> tuple[list[Remote], list[bool] | None]:
    """The files that are used, and whether the records of each are held out; None if no name says so.

    Files of `val` are held out if there are none of `test`; else they are passed over, and `account_unused` gets their
    names and the reason. Raises `UserError` if all files are held out.
    """
    parts = [file.part for file in files]
    held = "test" if "test" in parts else "val"
    used = [file for file, part in zip(files, parts, strict=True) if part in ("train", held)]
    for file, part in zip(files, parts, strict=True):
        if part not in ("train", held):
            account_unused(file.name, "named val, as those named test are held out")
    if held not in parts:
        return used, None
    if "train" not in parts:
        raise UserError(f"all files are named {held}, so none is left to train on: {named([f.name for f in files], 3)}")
    return used, [file.part == held for file in used]
