"""Which folders of a user's data are classes, and which say what files are for.

| layout | classes |
|---|---|
| `cat/*`, `dog/*` | `cat` and `dog`, at whatever depth the files lie in them |
| `train/cat/*`, `test/cat/*` or `cat/train/*`, `cat/test/*` | `cat`, …; `test`, or else `val`, is held out |
| `PetImages/cat/*`, `PetImages/dog/*` | `cat` and `dog`; a folder that contains all others is passed through |
| `KitA/kick/*`, `KitB/kick/*`, … | `kick`, …; the second level has the classes if its names repeat |
| `0001/model.obj`, `0002/model.obj`, … | none, as each folder contains one example |
| `*` | none |

Where nearly all files lie in class folders, the few others do not count.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from diffcore.names import ClassLevel

Folders = tuple[str, ...]
"""The names of the folders that a file lies in, from the outermost one."""

PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
"""Folders of these names say what files are for."""

_ITEMS = 5
"""So many folders, with one file in each, are examples with a folder of their own and not classes."""

_REPEATED = 0.5
"""The second level has the classes if this fraction of the files lies in folders whose names repeat."""


@dataclass(frozen=True)
class Layout:
    """Where the part and the class of a file stand in its path.

    * `above`: the folders that contain everything.
    * `parted`: whether folders say what files are for.
    * `within`: the folders that contain all classes of a part.
    * `level`: the index of the class among the folders that remain; None if there are no classes.
    * `reason`: a sentence about the classes, for the user.
    """

    above: Folders
    parted: bool
    within: Folders
    level: int | None
    reason: str

    def place(self, folders: Folders) -> tuple[str, str] | None:
        """The part and the class of a file, each empty if there are none; None for a file outside of them."""
        rest = _below(folders, self.above)
        part = ""
        if rest is not None and self.parted:
            part, rest = placed(rest)
            if not part:
                return None
        rest = None if rest is None else _below(rest, self.within)
        if rest is None or self.level is None:
            return None if rest is None else (part, "")
        return (part, rest[self.level]) if len(rest) > max(self.level, 0) else None

    def is_beside_parts(self, folders: Folders) -> bool:
        """Whether a file lies outside of the folders that say what files are for, where there are such folders."""
        rest = _below(folders, self.above)
        return self.parted and (rest is None or not placed(rest)[0])


def guess(files: Sequence[Folders], level: ClassLevel = "auto") -> Layout:
    """The layout of files, given the folders that each lies in.

    `level` names the classes instead of a guess: "first" and "last" are the outermost and the innermost folders, apart
    from those that are passed through and those that say what files are for; "none" is no classes.
    """
    above = _around(files)
    inner = _all_below(files, above)
    parts = [placed(folders) for folders in inner]
    names = {part for part, _ in parts}
    parted = "train" in names and bool(names & {"test", "val"})
    within: Folders = ()
    if parted:
        inner = [rest for part, rest in parts if part]
        within = _around(inner)
        inner = _all_below(inner, within)
    where = f"the folders in {'/'.join((*above, *within))}" if above or within else "the outermost folders"
    if level == "none":
        return Layout(above, parted, within, None, "no classes, as `data.class_level` is none")
    if level == "last":
        return Layout(above, parted, within, -1, "classes are the innermost folders")
    if level == "first":
        return Layout(above, parted, within, 0, f"classes are {where}")
    if reason := _no_classes(inner):
        return Layout(above, parted, within, None, f"no classes, as {reason}")
    if first := _repeated_below(inner):
        shown = ", ".join(first[:3]) + (", …" if len(first) > 3 else "")
        reason = f"classes are the folders in {shown}, as their names repeat; `data.class_level` first takes {where}"
        return Layout(above, parted, within, 1, reason)
    return Layout(above, parted, within, 0, f"classes are {where}")


def few(loose: int, total: int, folders: int) -> bool:
    """Whether so many of all files are so few that a layout of `folders` folders holds without them."""
    return loose <= max(total // 10, 1 if folders > 1 else 0)


def placed(folders: Folders) -> tuple[str, Folders]:
    """What a file is for, by the folders that it lies in, and those of them that do not say so."""
    for index, name in enumerate(folders[:2]):
        if name.lower() in PARTS:
            return PARTS[name.lower()], (*folders[:index], *folders[index + 1 :])
    return "", folders


def _below(folders: Folders, above: Folders) -> Folders | None:
    return folders[len(above) :] if folders[: len(above)] == above else None


def _all_below(files: Sequence[Folders], above: Folders) -> list[Folders]:
    return [rest for folders in files if (rest := _below(folders, above)) is not None]


def _around(files: Sequence[Folders]) -> Folders:
    """The folders that contain all folders of several, such as pets/PetImages in pets/PetImages/{Cat,Dog}."""
    passed: list[str] = []
    around = 0
    while True:
        names = {folders[0] for folders in files if folders}
        loose = sum(not folders for folders in files)
        if len(names) != 1 or not few(loose, len(files), 2):
            break
        (name,) = names
        passed.append(name)
        is_part = name.lower() in PARTS and few(loose, len(files), 1)
        files = _all_below(files, (name,))
        if is_part or (_no_classes(files) is None and len({folders[0] for folders in files if folders}) > 1):
            around = len(passed)
    return tuple(passed[:around])


def _no_classes(files: Sequence[Folders]) -> str | None:
    """Why the outermost folders are not classes; None if they can be."""
    inner = [folders for folders in files if folders]
    count = len({folders[0] for folders in inner})
    if not inner:
        return "all files lie in one folder"
    if not few(len(files) - len(inner), len(files), count):
        return f"{len(files) - len(inner)} of {len(files)} files lie outside of folders"
    if len(inner) == count and (count >= _ITEMS or all(len(folders) > 1 for folders in inner)):
        return "each folder contains one file"
    return None


def _repeated_below(files: Sequence[Folders]) -> list[str]:
    """The outermost folders, if the folders directly in them have the classes, that is, the same names; else empty."""
    pairs = Counter(folders[:2] for folders in files if len(folders) > 1)
    parents = defaultdict(set)
    for first, second in pairs:
        parents[second].add(first)
    repeated = {name for name, within in parents.items() if len(within) > 1}
    if max(pairs.values(), default=0) == 1 and any(character.isdigit() for name in repeated for character in name):
        return []  # numbered examples with a folder of their own
    share = sum(count for (_, second), count in pairs.items() if second in repeated) / len(files)
    enough = len(repeated) > 1 and share >= _REPEATED and few(len(files) - pairs.total(), len(files), len(pairs))
    return sorted({first for first, _ in pairs}) if enough else []
