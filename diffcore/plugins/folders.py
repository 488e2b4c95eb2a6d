"""A user's own folder of files: their classes, the part that is held out, and what cannot be read."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffcore.errors import UserError

if TYPE_CHECKING:
    from tensordict import TensorDict

Files = tuple[tuple[Path, int], ...]
"""Files, each with the index of its class."""


class UnusableError(Exception):
    """Why a file cannot be an example, in a few words."""


@dataclass(frozen=True)
class Tree:
    """The files of a folder; no classes where they lie in one heap."""

    classes: tuple[str, ...]
    train: Files
    test: Files | None
    """Files that the folder itself keeps back, where it does."""
    notes: tuple[str, ...] = ()


PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
"""Folders of these names say what files are for."""


def tree(
    folder: str | None,
    endings: Collection[str],
    name: str,
    what: str,
    names: Mapping[str, str] | None = None,
    chosen: Collection[str] = (),
) -> Tree:
    """Find the files with one of `endings` (lower case, with the dot) under `folder`, sorted by name.

    The classes are the folders directly in `folder`, at whatever depth their files lie. `names` renames classes, and
    `chosen` selects some of them. Folders called train, test and val may lie above the classes or inside each of them;
    val is held out if there is no test folder. Files that lie directly in `folder`, or directly in train, test or val,
    have no classes. Hidden files are ignored and linked folders are followed. `name` is the name of the data set and
    `what` describes its files, for messages.

    Raises `UserError` if the folder or such files are missing, if a chosen class does not exist, if a class has only
    held-out files, or if files lie outside train, test and val where these exist.
    """
    if folder is None:
        raise UserError(f"the data set {name!r} needs `data.root`, a folder of {what} or of class folders")
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"no folder {root}: `data.root` must be a folder of {what} or of class folders")
    everything = [path for path in _files(root) if path.suffix.lower() in endings]
    if not everything:
        raise UserError(f"no {what} under {root}: {_instead(root, endings)}")
    folders = [path.relative_to(root).parts[:-1] for path in everything]
    placed = [_placed(names) for names in folders]
    found = {part for part, _ in placed}
    if "train" not in found or not found & {"test", "val"}:  # one part is all there is, or a class of that name
        placed = [
            ("", inner if found == {part} else names) for (part, inner), names in zip(placed, folders, strict=True)
        ]
    heap = any(not inner for _, inner in placed)
    parts: dict[str, list[tuple[Path, str]]] = {"": [], "train": [], "test": [], "val": []}
    for path, (part, inner) in zip(everything, placed, strict=True):
        parts[part].append((path, "" if heap else (names or {}).get(inner[0], inner[0])))
    held = "test" if parts["test"] else "val"
    if parts["train"] and parts[""]:
        raise UserError(
            f"{len(parts[''])} {what} under {root} are neither in a train nor in a {held} folder, such as "
            f"{parts[''][0][0]}; move them into one"
        )
    train, test = parts["train"] or parts[""], parts[held]
    unused = parts["val"] if held == "test" else []
    notes = [f"not used: {len(unused)} {what} in val folders; those in test folders are held out"] * bool(unused)
    known = sorted({name for _, name in train if name})
    if unknown := sorted({name for _, name in test if name} - {*known}):
        raise UserError(f"{root}: the {held} folders have classes that the train folders lack: {named(unknown)}")
    if missing := [name for name in chosen if name not in known]:
        raise UserError(f"{root} has no class {named(missing)}; it has: {named(known) or 'none'}")
    classes = [name for name in known if not chosen or name in chosen]

    def listed(files: Sequence[tuple[Path, str]]) -> Files:
        return tuple((path, classes.index(name) if name else 0) for path, name in files if name in classes or heap)

    if lacking := [name for name in classes if test and name not in {name for _, name in test}]:
        notes.append(f"classes without a held-out example: {named(lacking)}")
    return Tree(tuple(classes), listed(train), listed(test) or None, tuple(notes))


def _placed(folders: Sequence[str]) -> tuple[str, Sequence[str]]:
    """What a file is for, by the folders that it lies in, and those of them that do not say so."""
    for index, name in enumerate(folders[:2]):
        if name.lower() in PARTS:
            return PARTS[name.lower()], [*folders[:index], *folders[index + 1 :]]
    return "", folders


def _files(place: Path) -> list[Path]:
    """All files that are not hidden, nor in a hidden folder, in the order of their names; links are followed."""
    found = []
    for folder, inner, files in os.walk(place, followlinks=True):
        inner[:] = [name for name in inner if not _hidden(name)]
        found += [Path(folder) / name for name in files if not _hidden(name)]
    return sorted(path for path in found if path.is_file())


def _hidden(name: str) -> bool:
    """Whether a name is hidden, as those that macOS leaves beside copied files are."""
    return name.startswith(".") or name == "__MACOSX"


def _instead(place: Path, endings: Collection[str]) -> str:
    """What is there instead of the files that were looked for."""
    others = Counter(path.suffix.lower() or "no ending" for path in _files(place))
    few = sorted(endings)
    wanted = ", ".join(few[:8]) + (", …" if len(few) > 8 else "")
    if not others:
        return f"it is empty; files that end in {wanted} are read"
    there = ", ".join(f"{count} of {ending}" for ending, count in others.most_common(5))
    return f"files that end in {wanted} are read, and there are {there}"


def named(names: Sequence[object], shown: int = 10) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more


def left_out(faults: Sequence[str], total: int, folder: str | None, what: str, skip: bool) -> list[str]:
    """A note on `faults`, the files that cannot be used, or with `skip` off a `UserError`; nothing without any."""
    if not faults:
        return []
    told = f"{len(faults)} of the {total} {what} under {folder} cannot be used: {named(faults)}"
    if not skip:
        raise UserError(f"{told}; fix or remove them, or skip them with `data.skip_unreadable`")
    return [f"left out: {told}"]


def split(everything: "TensorDict", share: float) -> "tuple[TensorDict, TensorDict | None]":
    """Keep back a share of the examples, evenly over their `label`, the same ones each time. None where too few.

    The only example of a class is trained on.
    """
    label = everything["label"]
    order = torch.argsort(label, stable=True)
    order = order[torch.bincount(label)[label[order]] > 1]
    counts = torch.floor(share * torch.arange(len(order) + 1, dtype=torch.float64) + 1e-9)
    held = torch.zeros(len(everything), dtype=torch.bool)
    held[order[counts.diff() > 0]] = True
    if held.sum() < 2:
        return everything, None
    return everything[~held], everything[held]
