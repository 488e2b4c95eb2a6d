"""Every kind of data that is read from a folder is read in every documented layout."""

import os

import numpy
import pytest
import soundfile
from PIL import Image

from diffcore.denoising.conditions import captions_of
from diffcore.plugins import registry as plugins
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data

LAYOUTS = {
    "classes": (("cat/1", "cat/2", "cat/3", "dog/4", "dog/5", "dog/6"), ("cat", "dog")),
    "a stray file": (("cat/1", "cat/2", "cat/3", "dog/4", "dog/5", "dog/6", "preview"), ("cat", "dog")),
    "deep classes": (("cat/x/1", "cat/y/2", "dog/x/z/3", "dog/4"), ("cat", "dog")),
    "parts above": (("train/cat/1", "train/dog/2", "test/cat/3", "test/dog/4"), ("cat", "dog")),
    "parts below": (("cat/train/1", "dog/train/2", "cat/val/3", "dog/val/4"), ("cat", "dog")),
    "a folder around": (("PetImages/cat/1", "PetImages/cat/2", "PetImages/dog/3", "PetImages/dog/4"), ("cat", "dog")),
    "kits": (("A/kick/1", "A/snare/2", "B/kick/3", "B/snare/4"), ("kick", "snare")),
    "one class": (("cat/1", "cat/2", "cat/3", "cat/4"), ("cat",)),
    "examples in folders": (("001/x", "002/x", "003/x", "004/x", "005/x"), ()),
    "a heap": (("1", "2", "3", "4"), ()),
    "a heap in parts": (("train/1", "train/2", "test/3", "test/4"), ()),
}


def picture(path, number):
    Image.new("RGB", (8, 8), (number, 0, 255)).save(path.with_suffix(".png"))


def sound(path, number):
    soundfile.write(path.with_suffix(".wav"), 0.5 * numpy.sin(numpy.arange(800) * (number + 1) / 50), 16_000)


def mesh(path, number):
    path.with_suffix(".off").write_text(f"OFF\n3 1 0\n0 0 0\n{number + 1} 0 0\n0 1 0\n3 0 1 2\n")


def cloud(path, number):
    numpy.save(path.with_suffix(".npy"), numpy.random.default_rng(number).normal(size=(64, 3)))


KINDS = {
    ("image", "folder"): (picture, {"size": 8}),
    ("audio", "folder"): (sound, {"seconds": 0.1}),
    ("pointcloud", "meshes"): (mesh, {"points": 16}),
    ("pointcloud", "clouds"): (cloud, {"points": 16}),
}


def read(modality, dataset, root):
    """The data in a folder, and the conditions of their codec."""
    registry = plugins.installed()
    over = {"data": {"name": dataset, "root": str(root), **KINDS[modality, dataset][1]}}
    data = build_data(compose(registry, modality, dataset, over=over), registry)
    return data, registry.modality(modality).codec(data.facts).conditions


@pytest.mark.parametrize(("modality", "dataset"), KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, modality, dataset, layout):
    make, (names, classes) = KINDS[modality, dataset][0], LAYOUTS[layout]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make(tmp_path / name, number)
    data, conditions = read(modality, dataset, tmp_path)
    stray = layout == "a stray file"
    assert data.facts.classes == classes
    assert len(conditions) == bool(classes)
    assert len(data.examples) + (0 if data.held_out is None else len(data.held_out)) == len(names) - stray
    assert sum(map(len, data.ledger.passed_over.values())) == stray


@pytest.mark.parametrize(("modality", "dataset"), KINDS)
def test_names_that_are_not_utf_8_are_read(tmp_path, modality, dataset):
    make, _ = KINDS[modality, dataset]
    for number, name in enumerate((b"caf\xe9", b"tea")):
        (tmp_path / "new").mkdir()
        make(tmp_path / "new" / "x", number)
        (file,) = (tmp_path / "new").iterdir()
        file.rename(file.with_name(os.fsdecode(b"\xff" + os.fsencode(file.suffix))))
        (tmp_path / "new").rename(tmp_path / os.fsdecode(name))
    data, _ = read(modality, dataset, tmp_path)
    assert data.facts.classes == (r"caf\xe9", "tea")
    assert data.ledger.passed_over == {}


@pytest.mark.parametrize(("modality", "dataset"), KINDS)
def test_examples_have_the_captions_of_their_files(modality, dataset, tmp_path):
    """Also those that are held out: the caption of each example names its class."""
    write, _ = KINDS[modality, dataset]
    for number, name in enumerate(("cat", "dog") * 5):
        path = tmp_path / name / f"{number}"
        path.parent.mkdir(exist_ok=True)
        write(path, number)
        if number < 8:
            path.with_suffix(".txt").write_text(f"this is a {name}\n{name}, number {number}\n")
    data, conditions = read(modality, dataset, tmp_path)
    assert len(data.ledger.noted["without a caption"]) == 2
    codec = plugins.installed().modality(modality).codec(data.facts)
    seen = 0
    for examples in (data.examples, *([] if data.held_out is None else [data.held_out])):
        values = codec.encode(examples).conditions
        for caption in captions_of(conditions, values):
            seen += "prompt" in caption
            assert caption.get("prompt", "this is a " + caption["label"]) == "this is a " + caption["label"]
    assert seen == 8
    assert data.facts.text.learned["length"] == 8
