"""Stand-ins for what a reader of the pages has: a folder of data, a picture, a part of a shape, a trained run."""

import itertools
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
from PIL import Image

RUNS = {
    "write": "audio",
    "long": "audio",
    "SOUND": "audio",
    "logp": "molecule",
    "tpsa": "molecule",
    "chair": "pointcloud",
    "16384": "pointcloud",
}
"""Words of a line that show which kind of data the run has that the line calls RUN."""

SIDES = {"PICTURE.png": 8, "MASK.png": 8, "SMALL.png": 4, "ICON.png": 16}
"""The height and width of pictures, by their names on the pages."""


def put_in_place(words: Sequence[str], train: Callable[[str, str], None]) -> None:
    """Create the files that a line names and that do not exist. PATH is a new folder in every line."""
    for flag, word in zip(["", *words], words, strict=False):
        path = Path(word)
        if word == "PATH":
            shutil.rmtree(path, ignore_errors=True)
            _data(words, path)
        elif path.exists() or flag == "--out":
            continue
        elif word == "RUN":
            train(_kind(words), word)
        elif (name := word.removeprefix("coarse=")) in SIDES:
            _picture(Path(name), SIDES[name])
        elif path.suffix == ".ply" and flag == "--inpaint":
            _cloud(path)
        elif path.suffix == ".wav" and flag == "--inpaint":
            _sound(path, 440)
        elif path.suffix == ".wav" and flag == "--given":
            _sound(Path(word.partition("=")[2]), 440)
        elif path.suffix == ".sdf" and flag == "--inpaint":
            _part_of_a_molecule(path)
        elif flag == "--given" and word.endswith("WANTED.csv"):
            Path(word.partition("=")[2]).write_text("logp,tpsa,qed\n1.5,40,0.5\n")
        elif flag == "--conformers":
            path.write_text("CCO\n")


def _kind(words: Sequence[str]) -> str:
    line = " ".join(words)
    return next((kind for word, kind in RUNS.items() if re.search(rf"\b{word}\b", line)), "image")


def _data(words: Sequence[str], path: Path) -> None:
    """A folder of two classes with the files that `--data` and `--modality` need; nothing for the larger data sets."""
    flags = dict(itertools.pairwise(words))
    make = MAKERS.get((flags.get("--modality", ""), flags.get("--data", "")))
    for name in ("one", "other") if make else ():
        (path / name).mkdir(parents=True)
        for index in range(6):
            make(path / name / str(index), index)


def _picture(path: Path, side: int) -> None:
    """A picture whose upper half is black and whose lower half is white."""
    rows = numpy.arange(side)[:, None] >= side // 2
    Image.fromarray(numpy.broadcast_to(rows * numpy.uint8(255), (side, side)).copy()).save(path)


def _sound(path: Path, pitch: float) -> None:
    import soundfile

    soundfile.write(path, 0.5 * numpy.sin(2 * numpy.pi * pitch * numpy.arange(4000) / 8000), 8000)


def _mesh(path: Path, height: float) -> None:
    import trimesh

    trimesh.creation.box((1, height, 1)).export(path)


def _cloud(path: Path) -> None:
    import trimesh

    points = numpy.random.default_rng(0).uniform(-0.4, 0.4, (20, 3))
    trimesh.PointCloud(points).export(path)


def _part_of_a_molecule(path: Path) -> None:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    ring = Chem.MolFromSmiles("C1CC1")
    AllChem.EmbedMolecule(ring, randomSeed=1)
    Chem.MolToMolFile(ring, str(path))


MAKERS: dict[tuple[str, str], Callable[[Path, int], None]] = {
    ("image", "folder"): lambda file, index: _picture(file.with_suffix(".png"), 8 + index),
    ("audio", "folder"): lambda file, index: _sound(file.with_suffix(".wav"), 100 * (index + 1)),
    ("pointcloud", "meshes"): lambda file, index: _mesh(file.with_suffix(".off"), 1 + index),
    ("pointcloud", "clouds"): lambda file, index: _cloud(file.with_suffix(".ply")),
}
"""Functions that write one example of a data set, by kind of data and name of the data set."""
