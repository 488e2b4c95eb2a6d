"""Data that are at another place than when a run was trained: the run is told, and the data are compared."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

import diffcore as dc
from diffcore import cli
from diffcore.plugins.data import Data
from diffcore.plugins.records import Component, Place, Settings
from diffcore.plugins.registry import Provided
from diffcore.runs.folder import RunFolder
from tests.support.refusals import refused
from tests.support.toy import ToyFacts, put_in_place, toy_registry

TRAIN = ("--modality", "toy", "--data", "stored", "--train.steps", "4", "--train.evaluate", "0", "--sample.steps", "2")


class Options(Settings):
    root: Place = None
    limit: int = 1000


def read(options):
    path = Path(options.root or "nowhere") / "points.json"
    if not path.is_file():
        raise dc.UserError(f"no file {path}: `data.root` must be its folder")
    place = torch.tensor(json.loads(path.read_text()))
    label = torch.arange(len(place)) % 2
    return Data(ToyFacts(), TensorDict({"place": place, "label": label}, batch_size=[len(place)]))


@pytest.fixture(scope="module")
def toy_with_files():
    """The toy with one more data set: one text file of the numbers of its points."""
    with pytest.MonkeyPatch.context() as patch:
        registry = toy_registry()
        offered = Component("stored", "points of a file", read, Options)
        registry.datasets["stored"] = Provided(offered, "diffcore-toy", "1.0")
        put_in_place(patch, registry)
        yield


def store(folder, points):
    folder.mkdir(exist_ok=True)
    (folder / "points.json").write_text(json.dumps(points))


POINTS = [[0.5 + i / 40, 1.0 - i / 40] for i in range(40)]


@pytest.fixture
def run(tmp_path, toy_with_files):
    """A run whose data have moved from `old` to `new data`."""
    store(tmp_path / "old", POINTS)
    out = tmp_path / "run"
    assert cli.main(["train", *TRAIN, "--data.root", str(tmp_path / "old"), "--out", str(out)]) == 0
    shutil.move(tmp_path / "old", tmp_path / "new data")
    return out


def test_moved_data_are_named_by_the_flag_of_the_advice(run, tmp_path, capsys):
    for command in (["resume", run, "--train.steps", "6"], ["evaluate", run, "--n", "4"]):
        assert "if the data have moved, name their place with --data.root" in refused(capsys, *command)
    there = ["--data.root", str(tmp_path / "new data")]
    assert cli.main(["evaluate", str(run), "--n", "4", *there]) == 0
    assert str(tmp_path / "old") in RunFolder(run).config.read_text()  # an evaluation does not change the run
    assert cli.main(["resume", str(run), "--train.steps", "6", *there]) == 0
    capsys.readouterr()
    assert cli.main(["resume", str(run), "--train.steps", "8"]) == 0  # the run keeps the place
    assert "is not exactly" not in capsys.readouterr().err


def test_moved_data_in_python(run, tmp_path):
    again = dc.load(run, data={"root": tmp_path / "new data"})
    assert len(again.data.examples) == 40
    with pytest.raises(dc.UserError, match=r"`data\.root`"):
        _ = dc.load(run).data
    again.resume({"steps": 6})
    assert len(dc.load(run).data.examples) == 40


def test_only_the_place_of_data_can_change(run, capsys):
    said = refused(capsys, "resume", run, "--train.steps", "6", "--data.limit", "3")
    assert "--data.limit cannot change for a run that was trained; --data.root can, if the data have moved" in said


def test_other_data_are_noticed(run, tmp_path, capsys):
    flags = ["--data.root", tmp_path / "new data", "--train.steps", "6"]
    store(tmp_path / "new data", POINTS[:30])
    said = refused(capsys, "resume", run, *flags)
    assert "was trained on other data than are there now: 40 examples for training then, 30 now" in said
    assert cli.main(["evaluate", str(run), "--n", "4", *map(str, flags[:2])]) == 0
    assert "40 examples for training then, 30 now" in capsys.readouterr().err
    store(tmp_path / "new data", [[0.1, 0.2], *POINTS[1:]])
    assert cli.main(["resume", str(run), *map(str, flags)]) == 0
    assert "is not exactly the same as when it was trained before" in capsys.readouterr().err
