"""Folders of shapes: which files there are, of which classes, what is trained on, and what could not be used."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from diffcore.errors import UserError
from diffcore.plugins.folders import Files, Tree, UnusableError, tree
from diffcore.states.noise import generator_for
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


Read = Callable[[Path, FileOptions, numpy.random.Generator], Cloud]
"""Reads a file; raises `UnusableError`, or whatever a library raises at damaged files."""

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


def listed(options: FileOptions, endings: Collection[str], what: str, others: Collection[str], other: str) -> Tree:
    """The files with these endings, by class and part: `diffcore.plugins.folders.tree`, and ShapeNet's layout.

    Files of the endings `others` are for the data set `other`, which is said where there is nothing else.
    """
    try:
        found = tree(options.root, endings, what, what, SYNSETS, options.classes)
    except UserError as error:
        there = Path(options.root or "").rglob("*") if options.root else ()
        if str(error).startswith("no ") and any(path.suffix.lower() in others for path in there):
            raise UserError(f"{error}; `data` {other} reads them") from None
        raise
    # In ShapeNet each model is a folder that holds `models`: a root of such folders is one class.
    single = [path.relative_to(str(options.root)).parts[1:2] == ("models",) for path, _ in found.train]
    if found.test is None and all(single):
        return Tree((), tuple((path, 0) for path, _ in found.train), None, found.notes)
    return found


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
        raise UnusableError("coordinates too small or too large for float32; `data.normalise` each can take them")
    return cloud


def first_line(error: BaseException) -> str:
    """What an exception says, in one line of modest length."""
    lines = str(error).strip().splitlines()
    return re.sub(r"\s+", " ", lines[0])[:100] if lines else type(error).__name__
