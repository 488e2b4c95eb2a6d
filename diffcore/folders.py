"""A user's own folder of files: their classes, the part that is kept back, and what cannot be read."""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tensordict import TensorDict

from diffcore.errors import UserError

Files = tuple[tuple[Path, int], ...]
"""Files, each with the index of its class."""


@dataclass(frozen=True)
class Tree:
    """The files of a folder; no classes where they lie in one heap."""

    classes: tuple[str, ...]
    train: Files
    test: Files | None
    """Files that the folder itself keeps back, where it does."""


def tree(folder: str | None, endings: Collection[str], name: str, what: str) -> Tree:
    """The files with one of `endings` (lower case, with the dot) under `folder`, in the order of their names.

    Four layouts are read: `CLASS/*`, `{train,test}/CLASS/*` and `CLASS/{train,test}/*`, at any depth below a class,
    and files in one heap, which have no classes. Hidden files are passed over. `name` is the data set's and `what`
    says what its files hold, for messages. Raises `UserError` where there is no folder, no such file in
    it, or where `test` has other classes than `train`.
    """
    if folder is None:
        raise UserError(f"the data set {name!r} needs --data.root PATH, a folder of {what} or of class folders")
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"no folder {root}: --data.root must be a folder of {what} or of class folders")

    def found(place: Path) -> list[Path]:
        return [path for path in _files(place) if path.suffix.lower() in endings]

    parted = all((root / part).is_dir() for part in ("train", "test"))
    place = root / "train" if parted else root
    everything = found(place)
    if not everything:
        raise UserError(f"no {what} under {place}: {_instead(place, endings)}")
    heap = any(path.parent == place for path in everything)
    classes = () if heap else tuple(dict.fromkeys(path.relative_to(place).parts[0] for path in everything))

    def listed(paths: Sequence[Path], above: Path) -> Files:
        return tuple((path, classes.index(path.relative_to(above).parts[0]) if classes else 0) for path in paths)

    if parted:
        held_out = found(root / "test")
        others = {path.relative_to(root / "test").parts[0] for path in held_out} if classes else set()
        if unknown := sorted(others - {*classes}):
            raise UserError(f"{root / 'test'} has classes that {place} lacks: {named(unknown)}")
        return Tree(classes, listed(everything, place), listed(held_out, root / "test") or None)
    inside = [parts[1] if len(parts := path.relative_to(place).parts) > 2 else "" for path in everything]
    if classes and {*inside} == {"train", "test"}:
        train = [path for path, part in zip(everything, inside, strict=True) if part == "train"]
        test = [path for path, part in zip(everything, inside, strict=True) if part == "test"]
        return Tree(classes, listed(train, place), listed(test, place))
    return Tree(classes, listed(everything, place), None)


def _files(place: Path) -> list[Path]:
    """All files that are not hidden, in the order of their names; linked folders are followed."""
    below = os.walk(place, followlinks=True)
    names = (Path(folder) / name for folder, _, files in below for name in files if not name.startswith("."))
    return sorted(path for path in names if path.is_file())


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
        raise UserError(f"{told}; mend or remove them, or leave them out with --data.skip-unreadable")
    return [f"left out: {told}"]


def split(everything: TensorDict, share: float) -> tuple[TensorDict, TensorDict | None]:
    """Keep back a share of the examples, evenly over their `label`, the same ones each time. None where too few.

    The only example of a label is not kept back.
    """
    label = everything["label"]
    order = torch.argsort(label, stable=True)
    order = order[torch.bincount(label)[label[order]] > 1]
    counts = torch.floor(share * torch.arange(len(order) + 1, dtype=torch.float64) + 1e-9)
    held = torch.zeros(len(label), dtype=torch.bool)
    held[order[counts.diff() > 0]] = True
    if held.sum() < 2:
        return everything, None
    return everything[~held], everything[held]
