"""A user's own folder of files: their classes, the part that is held out, and what is passed over."""

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.names import ClassLevel, names_in
from diffcore.plugins.captions import FileCaptions, is_of_captions, is_table, read_captions
from diffcore.plugins.layouts import Folders, Layout, few, guess
from diffcore.plugins.ledger import Account, Reasons, named, short, shown
from diffcore.system.walk import Listing, walk

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
    what: str = "files"
    root: str = ""
    layout: str = ""
    """A sentence about the classes."""
    passed_over: Reasons = field(default_factory=dict)
    """The files that are not used, by reason."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """The folders that cannot be opened, each with the message of the system."""
    captions: tuple[Path, ...] = ()
    """The files that hold captions of these files."""
    tables: tuple[Path, ...] = ()
    """The files of the names that the search was given as `tables`."""
    unused: tuple[Path, ...] = ()
    """Files like these that are not used, for a reason in `passed_over`."""

    def texts(self, account: Account) -> FileCaptions:
        """The captions of these files, in the forms of `diffcore.plugins.captions`.

        The account gets what is missing and what is wrong. Raises `UserError` for tables that are not valid.
        """
        files = [path for path, _ in (*self.train, *(self.test or ()))]
        return read_captions(self.captions, files, account, self.unused)

    def account(self) -> Account:
        """An account for the loader of these files; it begins with what the search passed over."""
        found = len(self.train) + len(self.test or ())
        account = Account(self.what, self.root, found, self.layout, self.passed_over)
        for folder, reason in self.unreadable.items():
            account.refuse(f"{folder}{os.sep}", f"the folder cannot be opened: {reason}")
        return account


_ABOUT = frozenset(("license", "licence", "copying", "citation", "changelog", "authors"))
"""Files of these names, and readmes, are about the data, whatever their ending."""


def tree(
    folder: str | None,
    endings: str | Collection[str],
    name: str,
    what: str,
    names: Mapping[str, str] | None = None,
    chosen: str | Collection[str] = (),
    level: ClassLevel = "auto",
    hints: Mapping[str, str] | None = None,
    unfit: Callable[[Path], str] = lambda path: "",
    captioned: bool = False,
    tables: Collection[str] = (),
) -> Tree:
    """Find the files with one of `endings` (lower case, with the dot) under `folder`, sorted by name.

    The classes follow from the folders as `diffcore.plugins.layouts` describes, or from `level`. `names` renames
    classes, and `chosen` selects some of them. Folders called train, test and val may lie above the classes or inside
    each of them; val is held out if there is no test folder. Hidden files, readmes, files with other endings, and the
    few files that lie outside of the classes are passed over. Links are followed, and each file is found once. `name`
    is the name of the data set and `what` describes its files, for messages; `hints` says by ending what to do with
    files that are not read. `unfit` returns the reason to pass over a file in spite of its ending, or an empty text.
    With `captioned`, files that hold captions are found too (`diffcore.plugins.captions`); `Tree.texts` reads them.
    `tables` are the ends of the paths of other files about these files, such as `en/data.json`, for `Tree.tables`.

    Raises `UserError` if the folder or such files are missing, if a chosen class does not exist, if a class has only
    held-out files, or if many files lie outside train, test and val where these exist.
    """
    if folder is None:
        raise UserError(f"the data set {name!r} needs `data.root`, a folder of {what} or of class folders")
    root, endings, chosen = Path(folder), names_in(endings), names_in(chosen)
    if not root.is_dir():
        raise UserError(f"no folder {root}: `data.root` must be a folder of {what} or of class folders")
    listing = walk(root)
    alike = [path for path in listing.files if _ending(path) in endings and not _is_readme(path)]
    alike = [path for path in alike if not (captioned and is_table(path))]
    reasons = {path: reason for path in alike if (reason := unfit(root / path))}
    wanted = [path for path in alike if path not in reasons]
    if not wanted:
        raise UserError(f"no {what} under {root}: {_instead(listing, endings, hints or {})}")
    layout = guess([_folders(path) for path in wanted], level)
    parts: dict[str, list[tuple[str, str]]] = {"": [], "train": [], "test": [], "val": []}
    outside = []
    for path in wanted:
        if (placed := layout.place(_folders(path))) is None:
            outside.append(path)
        else:
            parts[placed[0]].append((path, (names or {}).get(placed[1], shown(placed[1]))))
    held = "test" if parts["test"] else "val"
    _require_inside(outside, len(wanted), layout, root, what, held, level)
    train, test = parts["train"] or parts[""], parts[held]
    known = sorted({name for _, name in train if name})
    if unknown := sorted({name for _, name in test if name} - {*known}):
        raise UserError(f"{root}: the {held} folders have classes that the train folders lack: {named(unknown)}")
    if missing := [name for name in chosen if name not in known]:
        raise UserError(f"{root} has no class {named(missing)}; it has: {named(known) or 'none'}")
    classes = [name for name in known if not chosen or name in chosen]
    index = {name: number for number, name in enumerate(classes)}

    def listed(files: Sequence[tuple[str, str]]) -> Files:
        return tuple((root / path, index.get(name, 0)) for path, name in files if not name or name in index)

    read = {*wanted}
    stems = {str(Path(path).with_suffix("")) for path in wanted}
    captions = [path for path in listing.files if captioned and path not in read and is_of_captions(path, stems)]
    of_captions = {*captions}
    reasons = {path: reason for path, reason in reasons.items() if path not in of_captions}
    about = [path for path in listing.files if any(f"/{path}".endswith(f"/{end}") for end in tables)]
    others = {*read, *reasons, *of_captions, *about}
    unread = [path for path in listing.files if path not in others]
    unused = {
        "outside of the class folders" if layout.level is not None else "outside of the other files": outside,
        "in val folders, as those in test folders are held out": [p for p, _ in parts["val"] if held == "test"],
        "of classes that were not chosen": [p for p, name in (*train, *test) if name and name not in index],
        **{reason: [path for path in reasons if reasons[path] == reason] for reason in {*reasons.values()}},
    }
    passed_over = {**listing.passed_over, **unused, **_by_ending(unread, hints or {})}
    return Tree(
        tuple(classes),
        listed(train),
        listed(test) or None,
        tuple(_lost(known, layout, unread, names or {})),
        what,
        str(root),
        layout.reason,
        {why: tuple(map(shown, paths)) for why, paths in passed_over.items() if paths},
        {shown(path): reason for path, reason in listing.unreadable.items()},
        tuple(root / path for path in captions),
        tuple(root / path for path in about),
        tuple(root / path for paths in unused.values() for path in paths),
    )


def _require_inside(
    outside: Sequence[str], total: int, layout: Layout, root: Path, what: str, held: str, level: ClassLevel
) -> None:
    """Raise `UserError` if so many files lie outside of the parts or the classes that they must not be passed over."""
    if len(outside) == total:
        raise UserError(f"`data.class_level` {level} needs class folders, and all {what} lie directly in {root}")
    beside = [path for path in outside if layout.is_beside_parts(_folders(path))]
    loose = all(len(_folders(path)) == len(layout.above) for path in beside)
    if not few(len(beside), total, 2 if loose else 1):
        raise UserError(
            f"{len(beside)} {what} under {root} are neither in a train nor in a {held} folder, such as "
            f"{root / beside[0]}; move them into one"
        )


def _lost(known: Sequence[str], layout: Layout, unread: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """A note on the folders that would be classes if one of their files could be read, if there are any."""
    lost: dict[str, Counter[str]] = defaultdict(Counter)
    for path in unread:
        placed = layout.place(_folders(path)) if layout.level is not None else None
        if placed is not None and (name := names.get(placed[1], shown(placed[1]))) not in known:
            lost[name][_ending(path) or "no ending"] += 1
    told = [
        f"{name} ({', '.join(f'{count} of {ending}' for ending, count in counts.most_common(3))})"
        for name, counts in lost.items()
    ]
    return [f"folders that are no classes, because no file in them is read: {named(told)}"] if told else []


def _folders(path: str) -> Folders:
    return Path(path).parts[:-1]


def _ending(path: str) -> str:
    return Path(path).suffix.lower()


def _is_readme(path: str) -> bool:
    stem = Path(path).stem.lower()
    return stem in _ABOUT or stem.startswith("readme")


def _by_ending(unread: Iterable[str], hints: Mapping[str, str]) -> dict[str, list[str]]:
    """Files that are not read, by reason; the most frequent endings come first."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for path in unread:
        ending = _ending(path)
        reason = f"files that end in {ending}, which are not read" if ending else "files without an ending"
        if ending in hints:
            reason += f" ({hints[ending]})"
        reasons["readmes and licences" if _is_readme(path) else reason].append(path)
    return dict(sorted(reasons.items(), key=lambda item: -len(item[1])))


def _instead(listing: Listing, endings: Collection[str], hints: Mapping[str, str]) -> str:
    """What is there instead of the files that were looked for."""
    others = Counter(_ending(path) or "no ending" for path in listing.files)
    sorted_endings = sorted(endings)
    wanted = ", ".join(sorted_endings[:8]) + (", …" if len(sorted_endings) > 8 else "")
    closed = [f"{short(shown(path))} cannot be opened: {reason}" for path, reason in listing.unreadable.items()]
    closed += [f"{len(paths)} {why}" for why, paths in listing.passed_over.items()]
    advice = dict.fromkeys(hints[ending] for ending in others if ending in hints)
    more = "".join(f"; {part}" for part in (named(closed, 3), *advice) if part)
    if not others:
        return f"it is empty; files that end in {wanted} are read{more}"
    there = ", ".join(f"{count} of {ending}" for ending, count in others.most_common(5))
    return f"files that end in {wanted} are read, and there are {there}{more}"


def with_places(examples: TensorDict, files: Sequence[Path], root: str | Path) -> TensorDict:
    """The examples with the column `place`: a number for the place of the file of each under `root`.

    Files of the same path without their endings have the same number under different roots, so that files of different
    kinds can be paired (`diffcore.plugins.joint.pairs`).
    """
    examples["place"] = torch.tensor([place_of(path.relative_to(root)) for path in files], dtype=torch.int64)
    return examples


def place_of(path: Path) -> int:
    """The number of a path without its ending: 63 bits of a digest."""
    name = unicodedata.normalize("NFC", path.with_suffix("").as_posix())
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") >> 1


def without_empty(
    classes: Sequence[str], train: TensorDict, held_out: TensorDict | None, account: Account
) -> tuple[tuple[str, ...], TensorDict, TensorDict | None]:
    """The arguments without the classes that have no training example, as their files could not be used.

    `label` is renumbered, and held-out examples of these classes are removed. The account gets a note of each.
    """
    counts = torch.bincount(train["label"], minlength=len(classes))
    if not classes or bool((counts > 0).all()):
        return tuple(classes), train, held_out
    index = (counts > 0).cumsum(0) - 1
    for name, count in zip(classes, counts.tolist(), strict=True):
        if not count:
            account.pass_over(name, "classes without a file that can be used")

    def renumbered(examples: TensorDict) -> TensorDict:
        kept = examples[counts[examples["label"]] > 0]
        kept["label"] = index[kept["label"]]
        return kept

    held = None if held_out is None else renumbered(held_out)
    kept = tuple(name for name, count in zip(classes, counts.tolist(), strict=True) if count)
    return kept, renumbered(train), None if held is None or len(held) < 2 else held


def uneven(classes: Sequence[str], train: TensorDict, held_out: TensorDict | None) -> list[str]:
    """Notes that name the classes with a single training example, and those without a held-out example."""
    counts = torch.bincount(train["label"], minlength=len(classes)).tolist()
    held = counts if held_out is None else torch.bincount(held_out["label"], minlength=len(classes)).tolist()
    affected = {
        "classes with only one training example": [
            name for name, count in zip(classes, counts, strict=False) if count == 1
        ],
        "classes without a held-out example": [name for name, count in zip(classes, held, strict=False) if count == 0],
    }
    return [f"{problem}: {named(names)}" for problem, names in affected.items() if names]


def split(everything: TensorDict, share: float) -> tuple[TensorDict, TensorDict | None]:
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
