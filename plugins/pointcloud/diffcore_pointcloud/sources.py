"""Folders of shapes: which files there are, of which classes, what is trained on, and what could not be used."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from diffcore.errors import UserError
from diffcore.noise import generator_for
from diffcore_pointcloud.options import FileOptions


@dataclass(frozen=True)
class Cloud:
    """Points of one shape: `positions` `[P, 3]` float64, `normals` `[P, 3]` of unit length, `colours` `[P, 3]` uint8.

    `bounds` `[2, 3]` are the corners of the box around the shape, which may have more than these points.
    """

    positions: NDArray[numpy.float64]
    bounds: NDArray[numpy.float64]
    normals: NDArray[numpy.float64] | None = None
    colours: NDArray[numpy.uint8] | None = None


class UnusableError(Exception):
    """Why a file cannot be used, in a few words."""


Read = Callable[[Path, FileOptions, numpy.random.Generator], Cloud]
"""Reads a file; raises `UnusableError`, or whatever a library raises at damaged files."""

Files = list[tuple[Path, int]]
"""Files and the index of their class."""

SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
"""Folders of these names say what files are for."""

SYNSETS = {
    "02691156": "airplane", "02747177": "trash_bin", "02773838": "bag", "02801938": "basket", "02808440": "bathtub",
    "02818832": "bed", "02828884": "bench", "02843684": "birdhouse", "02871439": "bookshelf", "02876657": "bottle",
    "02880940": "bowl", "02924116": "bus", "02933112": "cabinet", "02942699": "camera", "02946921": "can",
    "02954340": "cap", "02958343": "car", "02992529": "cellphone", "03001627": "chair", "03046257": "clock",
    "03085013": "keyboard", "03207941": "dishwasher", "03211117": "monitor", "03261776": "earphone",
    "03325088": "faucet", "03337140": "file_cabinet", "03467517": "guitar", "03513137": "helmet", "03593526": "jar",
    "03624134": "knife", "03636649": "lamp", "03642806": "laptop", "03691459": "loudspeaker", "03710193": "mailbox",
    "03759954": "microphone", "03761084": "microwave", "03790512": "motorcycle", "03797390": "mug",
    "03928116": "piano", "03938244": "pillow", "03948459": "pistol", "03991062": "pot", "04004475": "printer",
    "04074963": "remote_control", "04090263": "rifle", "04099429": "rocket", "04225987": "skateboard",
    "04256520": "sofa", "04330267": "stove", "04379243": "table", "04401088": "telephone", "04460130": "tower",
    "04468005": "train", "04530566": "vessel", "04554684": "washer",
}  # fmt: skip
"""What ShapeNet's folders hold: WordNet's numbers of the 55 classes of ShapeNetCore."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds. `test` is None where nothing says which files to hold out."""

    classes: tuple[str, ...]
    train: Files
    test: Files | None
    notes: tuple[str, ...] = ()


def listed(options: FileOptions, endings: Collection[str], what: str, others: Collection[str], other: str) -> Listing:
    """The files with these endings, by class and part.

    Classes are folders of the root, whatever lies between them and the files, as in ShapeNet; folders called train,
    test and val may stand above them or, as in ModelNet, in each. Files in the root itself mean that there are no
    classes. Names that begin with a dot are passed over. Files of the endings `others` are for the data set `other`,
    which is said where there is nothing else.
    """
    if options.root is None:
        raise UserError(f"this data set needs --data.root PATH, a folder of {what} or of class folders")
    root = Path(options.root)
    if not root.is_dir():
        raise UserError(f"no folder {root}: --data.root must be a folder of {what} or of class folders")
    everything = [path for path in sorted(root.rglob("*")) if not _hidden(path.relative_to(root)) and path.is_file()]
    found = [path for path in everything if path.suffix.lower() in endings]
    expected = ", ".join(ending[1:].upper() for ending in sorted(endings))
    if not found:
        kinds = Counter(path.suffix.lower() or "without ending" for path in everything)
        held = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5)) or "no files"
        hint = f"; such files are read by --data {other}" if set(kinds) & set(others) else ""
        raise UserError(f"no {what} under {root}: expected {expected}, found {held}{hint}")

    folders = [path.relative_to(root).parts[:-1] for path in found]
    parts = [_part(folder) for folder in folders]
    inner = [
        [name for index, name in enumerate(folder) if index != at]
        for folder, (_, at) in zip(folders, parts, strict=True)
    ]
    # In ShapeNet each model is a folder that holds `models`: a root of such folders is one class.
    plain = any(not names for names in inner) or all(names[1:2] == ["models"] for names in inner)
    named = [None if plain else SYNSETS.get(names[0], names[0]) for names in inner]
    files: dict[str, list[tuple[Path, str | None]]] = {"": [], "train": [], "test": [], "val": []}
    for path, name, (part, _) in zip(found, named, parts, strict=True):
        files[part].append((path, name))
    return _parted(options, files, what)


def _hidden(path: Path) -> bool:
    """Whether a part of a path is hidden, as what macOS leaves beside copied files."""
    return any(name.startswith(".") or name == "__MACOSX" for name in path.parts)


def _part(folders: Sequence[str]) -> tuple[str, int]:
    """What a file is for and which of its folders says so, -1 where none does."""
    for index, name in enumerate(folders[:2]):
        if name.lower() in SPLITS:
            return SPLITS[name.lower()], index
    return "", -1


def _parted(options: FileOptions, files: dict[str, list[tuple[Path, str | None]]], what: str) -> Listing:
    notes = []
    held = "test" if files["test"] else "val"
    if not (files["train"] and files[held]):
        # Only one part is there: it is all there is.
        files = {"": [file for part in files.values() for file in part], "train": [], "test": [], "val": []}
    elif files[""]:
        raise UserError(
            f"{len(files[''])} {what} under {options.root} are neither in a train nor in a {held} folder, such as "
            f"{files[''][0][0]}; move them into one"
        )
    train, test = files["train"] or files[""], files[held]
    if held == "test" and files["val"]:
        notes.append(f"not used: {len(files['val'])} {what} in val folders; figures are made with the test folders")
    known = sorted({name for _, name in train if name is not None})
    if test and (unknown := sorted({str(name) for _, name in test if name is not None} - set(known))):
        raise UserError(f"{options.root}: classes in {held} folders that train folders lack: {named(unknown)}")
    if test and (lacking := sorted(set(known) - {str(name) for _, name in test})):
        notes.append(f"classes without {held} files: {named(lacking)}")
    classes = known
    if options.classes:
        if missing := [name for name in options.classes if name not in known]:
            raise UserError(f"{options.root} has no class {named(missing)}; it has: {named(known) or 'none'}")
        classes = [name for name in known if name in options.classes]
    index = {name: number for number, name in enumerate(classes)}

    def chosen(part: list[tuple[Path, str | None]]) -> Files:
        return [(path, index.get(name or "", 0)) for path, name in part if not classes or name in index]

    return Listing(tuple(classes), chosen(train), chosen(test) if test else None, tuple(notes))


def read_all(
    files: Files, read: Read, options: FileOptions, unusable: list[str], part: str
) -> tuple[list[Cloud], list[int]]:
    """The clouds of files and their classes; adds those that cannot be used to `unusable`, with the reason."""
    clouds, labels = [], []
    for number, (path, label) in enumerate(files):
        generator = numpy.random.default_rng(generator_for(options.seed, "cloud", part, number).initial_seed())
        try:
            clouds.append(checked(read(path, options, generator), options))
            labels.append(label)
        except UnusableError as error:
            unusable.append(f"{path} ({error})")
        except OSError as error:
            unusable.append(f"{path} ({error.strerror or first_line(error)})")
        except Exception as error:  # readers of damaged files fail in every way
            unusable.append(f"{path} (damaged: {first_line(error)})")
    return clouds, labels


_LARGEST, _SMALLEST = 1e30, 1e-30
"""Places whose squares float32 cannot hold are refused."""


def checked(cloud: Cloud, options: FileOptions) -> Cloud:
    """The cloud, scaled where `options.normalise` says so; raises `UnusableError` where nothing can be learned."""
    if not (numpy.isfinite(cloud.positions).all() and numpy.isfinite(cloud.bounds).all()):
        raise UnusableError("coordinates that are not finite numbers")
    low, high = cloud.bounds
    half = float((high / 2 - low / 2).max())
    if half == 0:
        raise UnusableError("all points are in one place")
    for asked, values, name in (
        (options.normals, cloud.normals, "normals"),
        (options.colours, cloud.colours, "colours"),
    ):
        if asked and values is None:
            raise UnusableError(f"no {name}")
    if options.normalise == "each":
        centre = low / 2 + high / 2
        return Cloud((cloud.positions - centre) / half, (cloud.bounds - centre) / half, cloud.normals, cloud.colours)
    if half < _SMALLEST or float(numpy.abs(cloud.bounds).max()) > _LARGEST:
        raise UnusableError("coordinates too small or too large for float32; --data.normalise each can take them")
    return cloud


def first_line(error: BaseException) -> str:
    """What an exception says, in one line of modest length."""
    lines = str(error).strip().splitlines()
    return re.sub(r"\s+", " ", lines[0])[:100] if lines else type(error).__name__


def named(names: Sequence[str], shown: int = 10) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
