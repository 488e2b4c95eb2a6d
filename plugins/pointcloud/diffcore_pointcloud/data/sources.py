"""Lists the files in a folder of shapes by class, and reads them, leaving out those that cannot be used."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from diffcore.plugins.folders import Files, Tree, UnusableError, tree
from diffcore.plugins.ledger import Account
from diffcore.states.noise import generator_for
from diffcore_pointcloud.options import FileOptions


@dataclass(frozen=True)
class Cloud:
    """The points of one shape: `positions` `[P, 3]` float64, unit `normals` `[P, 3]` and uint8 `colours` `[P, 3]`.

    `bounds` `[2, 3]` are the lower and upper corner of the bounding box of the whole shape, not only of these points.
    """

    positions: NDArray[numpy.float64]
    bounds: NDArray[numpy.float64]
    normals: NDArray[numpy.float64] | None = None
    colours: NDArray[numpy.uint8] | None = None


Read = Callable[[Path, FileOptions, numpy.random.Generator], Cloud]
"""A function that reads a file. It raises `UnusableError`, or any exception of a library for damaged files."""

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
"""The 55 classes of ShapeNetCore by WordNet number, which are the names of its folders."""


def listed(options: FileOptions, endings: Collection[str], what: str, others: Collection[str], other: str) -> Tree:
    """The files with these endings, by class and part, as `diffcore.plugins.folders.tree` finds them.

    The error for a folder without such files names the data set `other` if the folder has files with the endings
    `others`, which that data set reads.
    """
    return tree(
        options.root,
        endings,
        what,
        what,
        SYNSETS,
        options.classes,
        options.class_level,
        dict.fromkeys(others, f"`data` {other} reads them"),
    )


def read_all(
    files: Files, read: Read, options: FileOptions, account: Account, part: str
) -> tuple[list[Cloud], list[int]]:
    """The clouds in `files` and their classes. The account gets the files that cannot be used, with the reason."""
    clouds, labels = [], []
    for number, (path, label) in enumerate(files):
        generator = numpy.random.default_rng(generator_for(options.seed, "cloud", part, number).initial_seed())
        try:
            cloud = checked(read(path, options, generator), options)
        except UnusableError as error:
            account.refuse(path, str(error))
        except OSError as error:
            account.refuse(path, error.strerror or first_line(error))
        except Exception as error:  # readers raise any exception for damaged files
            account.refuse(path, f"damaged: {first_line(error)}")
        else:
            clouds.append(cloud)
            labels.append(label)
            if len(cloud.positions) < options.points:
                account.change(path, f"fewer than {options.points} points, which are repeated at random")
    return clouds, labels


_LARGEST, _SMALLEST = 1e30, 1e-30
"""The limits of coordinates and sizes whose squares float32 can represent."""


def checked(cloud: Cloud, options: FileOptions) -> Cloud:
    """The cloud, scaled to the cube if `options.normalise` is "each".

    Raises `UnusableError` if coordinates are not finite, all equal or not representable in float32, or if normals or
    colours are missing.
    """
    if not (numpy.isfinite(cloud.positions).all() and numpy.isfinite(cloud.bounds).all()):
        raise UnusableError("coordinates that are not finite numbers")
    low, high = cloud.bounds
    half = float((high / 2 - low / 2).max())
    if half == 0:
        raise UnusableError("all points are equal")
    for required, values, name in (
        (options.normals, cloud.normals, "normals"),
        (options.colours, cloud.colours, "colours"),
    ):
        if required and values is None:
            raise UnusableError(f"no {name}")
    if options.normalise == "each":
        centre = low / 2 + high / 2
        return Cloud((cloud.positions - centre) / half, (cloud.bounds - centre) / half, cloud.normals, cloud.colours)
    if half < _SMALLEST or float(numpy.abs(cloud.bounds).max()) > _LARGEST:
        raise UnusableError("coordinates too small or too large for float32, unless `data.normalise` is each")
    return cloud


def first_line(error: BaseException) -> str:
    """The message of an exception as one short line."""
    lines = str(error).strip().splitlines()
    return re.sub(r"\s+", " ", lines[0])[:100] if lines else type(error).__name__
