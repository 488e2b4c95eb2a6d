"""Lists the files in a folder of shapes by class, and reads them, leaving out those that cannot be used."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from diffcore.plugins.folders import Files, Tree, UnusableError, tree
from diffcore.plugins.ledger import Account
from diffcore.states.noise import generator_for
from diffcore_pointcloud.formats.content import READ_ERRORS, reason
from diffcore_pointcloud.formats.text import is_table
from diffcore_pointcloud.options import FileOptions


@dataclass(frozen=True)
class Cloud:
    """The points of one shape: `positions` `[P, 3]` float64, unit `normals` `[P, 3]` and uint8 `colours` `[P, 3]`.

    `parts` are the labels of the parts that the points are of, int64 `[P]`, as the file has them.

    `bounds` `[2, 3]` are the lower and upper corner of the bounding box of the whole shape, not only of these points.
    `note` says what of the file is not used, in a few words, and `dropped` is the number of points that were left out
    as they are not finite. `order` `[P]` has the places of the points among those of the file that are used; it is
    None for points that were drawn from a surface.
    """

    positions: NDArray[numpy.float64]
    bounds: NDArray[numpy.float64]
    normals: NDArray[numpy.float64] | None = None
    colours: NDArray[numpy.uint8] | None = None
    note: str = ""
    dropped: int = 0
    order: NDArray[numpy.int64] | None = None
    parts: NDArray[numpy.int64] | None = None

    def first(self, most: int) -> "Cloud":
        """The cloud with only its first `most` points; the others are no longer in memory."""
        if len(self.positions) <= most:
            return self
        return self._only(slice(most), copy=True)

    def in_order(self, count: int) -> "Cloud":
        """The cloud with only its first `count` points, in the order that they have in the file, if it has one."""
        rows = numpy.arange(count) if self.order is None else self.order[:count].argsort()
        return self._only(rows)

    def _only(self, rows: NDArray[numpy.int64] | slice, copy: bool = False) -> "Cloud":
        """The cloud with some of its points, without their places in the file."""
        each = {name: getattr(self, name) for name in ("positions", "normals", "colours", "parts")}
        chosen: dict[str, Any] = {name: None if values is None else values[rows] for name, values in each.items()}
        if copy:
            chosen = {name: None if values is None else values.copy() for name, values in chosen.items()}
        return replace(self, **chosen, order=None)


Read = Callable[[Path, FileOptions, numpy.random.Generator], list[Cloud]]
"""A function that reads a file with one or several clouds. It raises exceptions of `READ_ERRORS` only."""

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


def listed(options: FileOptions, endings: frozenset[str], what: str, others: frozenset[str], other: str) -> Tree:
    """The files with these endings, by class and part, as `diffcore.plugins.folders.tree` finds them.

    The error for a folder without such files names the data set `other` if the folder has files with the endings
    `others`, which that data set reads. Text files that are no tables of points, such as lists of files, are passed
    over.
    """
    return tree(
        options.root,
        endings,
        what,
        what,
        SYNSETS,
        options.classes,
        options.class_level,
        dict.fromkeys(_CONVERT, "convert them, for example with CloudCompare or Blender")
        | dict.fromkeys(others - endings, f"`data` {other} reads them"),
        _not_a_table,
        captioned=True,
    )


_CONVERT = (
    ".las",
    ".laz",
    ".e57",
    ".gltf",
    ".fbx",
    ".3ds",
    ".dae",
    ".blend",
    ".usd",
    ".usdz",
    ".ptx",
    ".splat",
    ".spz",
)
"""Endings of meshes and clouds that are not read."""


def _not_a_table(path: Path) -> str:
    """The reason to pass over a text file that is no table of points; empty for all other files."""
    if path.suffix.lower() not in (".txt", ".csv", ".asc"):
        return ""
    try:
        with path.open("rb") as file:
            table = is_table(file.read(4096))
    except OSError:
        return ""
    return "" if table else "text that is no table of points, such as a list of files"


def read_all(
    files: Files, read: Read, options: FileOptions, account: Account, part: str, most: int
) -> tuple[list[Cloud], list[int], list[Path]]:
    """The clouds in `files`, their classes and their files, with at most `most` points each, which are random ones.

    The account gets the files that cannot be used, with the reason.
    """
    clouds, labels, sources = [], [], []
    for number, (path, label) in enumerate(files):
        generator = numpy.random.default_rng(generator_for(options.seed, "cloud", part, number).initial_seed())
        try:
            found = [checked(cloud, options) for cloud in read(path, options, generator)]
        except READ_ERRORS as error:
            account.refuse(path, reason(error))
            continue
        clouds += [cloud.first(most) for cloud in found]
        labels += [label] * len(found)
        sources += [path] * len(found)
        for cloud in found:
            if len(cloud.positions) < options.points:
                account.change(path, f"fewer than {options.points} points, which are repeated at random")
        if any(cloud.dropped for cloud in found):
            account.change(path, "used without their points that are not finite")
        for note in dict.fromkeys(cloud.note for cloud in found if cloud.note):
            account.note(path, note)
    return clouds, labels, sources


def lacking(cloud: Cloud, name: str) -> str:
    """The reason that a cloud has no normals, colours or labels, and what to do if its columns have no names."""
    if "columns" not in cloud.note:
        return f"no {name}"
    return f"no {name}: {cloud.note}; `data.columns` says what they are"


_LARGEST, _SMALLEST = 1e30, 1e-30
"""The limits of coordinates and sizes whose squares float32 can represent."""


@numpy.errstate(all="ignore")
def checked(cloud: Cloud, options: FileOptions) -> Cloud:
    """The cloud, scaled to the cube if `options.normalise` is "each".

    Raises `UnusableError` if coordinates are not finite, all equal or not representable in float32, or if normals,
    colours or labels are missing.
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
        (options.joint == "parts", cloud.parts, "labels of points"),
    ):
        if required and values is None:
            raise UnusableError(lacking(cloud, name))
    if options.normalise == "each":
        centre = low / 2 + high / 2
        return replace(cloud, positions=(cloud.positions - centre) / half, bounds=(cloud.bounds - centre) / half)
    if half < _SMALLEST or float(numpy.abs(cloud.bounds).max()) > _LARGEST:
        raise UnusableError("coordinates too small or too large for float32, unless `data.normalise` is each")
    return cloud
