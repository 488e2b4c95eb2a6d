"""Every preset for a user's folder works with every documented layout of the folder."""

import os

import numpy
import pytest
import soundfile
from PIL import Image

from diffcore.cli import main
from diffcore.plugins import registry as plugins
from diffcore.runs.composing import compose, guidance_for
from diffcore.runs.model import build_data
from diffcore.runs.sampling_config import sampling_config

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


def test_no_preset_for_a_folder_is_missed():
    registry = plugins.installed()
    found = {
        (name, preset.values["data"]["name"])
        for name, modality in registry.modalities.items()
        for preset in modality.record.presets.values()
        if preset.values.get("data", {}).get("name") in ("folder", "meshes", "clouds")
    }
    assert found == KINDS.keys()


@pytest.mark.parametrize(("modality", "dataset"), KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, modality, dataset, layout):
    make, options = KINDS[modality, dataset]
    names, classes = LAYOUTS[layout]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make(tmp_path / name, number)
    registry = plugins.installed()
    kind = registry.modality(modality)
    for preset, recipe in kind.presets.items():
        if recipe.values.get("data", {}).get("name") != dataset:
            continue
        over = {"data": {"name": dataset, "root": str(tmp_path), **options}}
        settings = compose(registry, modality, preset, over=over)
        data = build_data(settings, registry)
        conditions = kind.codec(data.facts).conditions
        assert getattr(data.facts, "classes", ()) == classes
        assert len(conditions) == bool(classes)
        stray = layout == "a stray file"
        assert len(data.examples) + (0 if data.held_out is None else len(data.held_out)) == len(names) - stray
        assert sum(map(len, data.ledger.passed_over.values())) == stray
        config = sampling_config(guidance_for(settings, conditions, registry).sample, registry)
        assert config.guidance == 1 or conditions


def test_a_heap_of_sounds_is_trained_by_the_preset_for_folders(tmp_path, capsys):
    for number in range(6):
        sound(tmp_path / f"{number}", number)
    flags = ["--data", "folder", "--data.root", tmp_path, "--data.seconds", 0.1, "--denoiser.width", 8]
    flags += ["--denoiser.multipliers", 1, "--train.steps", 1, "--train.evaluate", 0, "--train.sample-every", 1]
    command = ["train", "--modality", "audio", "--out", tmp_path / "run", *flags, "--sample.steps", 1]
    assert main([*map(str, command)]) == 0
    assert "no classes or other conditions, so the guidance 3 of the preset is not used" in capsys.readouterr().err


def test_a_guidance_that_is_asked_for_stays():
    registry = plugins.installed()
    settings = compose(registry, "audio", "folder", over={"sample": {"guidance": 2.0}})
    assert guidance_for(settings, (), registry).sample.guidance == 2


@pytest.mark.parametrize(("modality", "dataset"), KINDS)
def test_names_that_are_not_utf_8_are_read(tmp_path, modality, dataset):
    make, options = KINDS[modality, dataset]
    for number, name in enumerate((b"caf\xe9", b"tea")):
        (tmp_path / "new").mkdir()
        make(tmp_path / "new" / "x", number)
        (file,) = (tmp_path / "new").iterdir()
        file.rename(file.with_name(os.fsdecode(b"\xff" + os.fsencode(file.suffix))))
        (tmp_path / "new").rename(tmp_path / os.fsdecode(name))
    registry = plugins.installed()
    over = {"data": {"name": dataset, "root": str(tmp_path), **options}}
    data = build_data(compose(registry, modality, dataset, over=over), registry)
    assert data.facts.classes == (r"caf\xe9", "tea")
    assert data.ledger.passed_over == {}
