"""A damaged checkpoint is passed over for the newest sound one, and said; and which checkpoints are kept."""

import errno
import json
import os
import shutil

import pytest
import torch

from diffcore import cli
from diffcore.errors import UserError
from diffcore.runs.checkpoints import (
    EMA,
    MODEL,
    Progress,
    checkpoints,
    find_checkpoint,
    newest_undamaged,
    read_tensors,
    write_checkpoint,
)
from diffcore.runs.folder import RunFolder, read_log
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy):
    path = tmp_path_factory.mktemp("whole") / "run"
    train = ["train", "--modality", "toy", "--out", str(path), "--train.steps", "40", "--train.evaluate", "0"]
    assert cli.main([*train, "--train.checkpoint-every", "10", "--sample.steps", "2"]) == 0
    return path


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("file", ["ema.safetensors", "model.safetensors", "training.safetensors", "manifest.json"])
def test_resume_goes_back_to_the_newest_sound_checkpoint(copy, whole, capsys, file):
    cut(copy / "checkpoints" / "step-00000040" / file)
    assert cli.main(["resume", str(copy)]) == 0
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if "is skipped" in line]
    assert line.startswith("step-00000040 is skipped: ")
    assert file in line
    assert f"going on from step 30 of {copy}" in said
    first, second = (read_tensors(find_checkpoint(RunFolder(path)), MODEL) for path in (copy, whole))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert [row["loss"] for row in read_log(RunFolder(copy))] == [row["loss"] for row in read_log(RunFolder(whole))]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
@pytest.mark.parametrize("file", ["ema.safetensors", "model.safetensors", "manifest.json"])
def test_a_checkpoint_that_cannot_be_read_now_is_not_passed_over(copy, capsys, monkeypatch, file, number):
    """Else training would repeat its steps, and samples would be those of older weights."""
    plain = os.open

    def refusing(path, *arguments, **keywords):
        if str(path).endswith(f"step-00000040/{file}"):
            raise OSError(number, os.strerror(number), str(path))
        return plain(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", refusing)
    for command in (["resume", copy, "--train.steps", "41"], ["sample", copy, "--n", "1", "--out", copy / "out"]):
        if file != ("ema.safetensors" if command[0] == "resume" else "model.safetensors"):
            assert f"step-00000040/{file}: {os.strerror(number)}." in refused(capsys, *command)
    assert len(checkpoints(RunFolder(copy))) == 2


@pytest.mark.parametrize("command", ["sample", "evaluate", "tune"])
def test_readers_pass_over_a_damaged_checkpoint_unless_it_is_named(copy, capsys, command):
    arguments = {"tune": ("--steps", "2", "--trajectories", "2", "--iterations", "1")}.get(command, ("--n", "4"))
    weights = copy / "checkpoints" / "step-00000040" / EMA
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert cli.main([command, str(copy), *arguments]) == 0
    said = capsys.readouterr().err
    assert said.count("step-00000040 is skipped: ") == 1
    assert "content does not match its checksum; try --checkpoint step-00000030" in said
    line = refused(capsys, command, copy, *arguments, "--checkpoint", "step-00000040")
    assert "ema.safetensors is damaged" in line


def test_where_no_checkpoint_is_sound_nothing_is_begun_again(copy, capsys):
    for checkpoint in checkpoints(RunFolder(copy)):
        cut(checkpoint / MODEL)
        cut(checkpoint / EMA)
    for command in ("resume", "sample"):
        line = refused(capsys, command, copy)
        assert "has no usable checkpoint (2 damaged); step-00000040: " in line
    assert len(checkpoints(RunFolder(copy))) == 2


def test_a_checkpoint_that_training_deletes_meanwhile(copy, capsys):
    """A newer one is there then; one that was asked for by name is said to be gone."""
    run, read = RunFolder(copy), []

    def slow(path):
        read.append(path.name)
        if len(read) == 1:  # training writes two more
            for step in (50, 60):
                new = path.with_name(f"step-000000{step}")
                shutil.copytree(path, new)
                manifest = json.loads((new / "manifest.json").read_text())
                (new / "manifest.json").write_text(json.dumps({**manifest, "step": step}))
            shutil.rmtree(path)
        return read_tensors(path, EMA)

    found, _ = newest_undamaged(run, slow)
    assert read == ["step-00000040", "step-00000060"]
    assert found.name == "step-00000060"
    assert "refused" not in capsys.readouterr().err

    def deleted(path):
        shutil.rmtree(path)
        return read_tensors(path, EMA)

    with pytest.raises(
        UserError, match=r"step-00000050 was deleted while it was read.*there are: step-00000030, step-00"
    ):
        newest_undamaged(run, deleted, "step-00000050")


def test_every_so_many_steps_a_checkpoint_stays_for_good(tmp_path):
    run = RunFolder(tmp_path)
    for step in range(5, 65, 5):
        write_checkpoint(run, Progress(step), {MODEL: {"w": torch.ones(2)}}, keep=2, keep_every=20)
    assert [path.name[-2:] for path in checkpoints(run)] == ["20", "40", "55", "60"]


def test_steps_of_nine_digits_are_newer(tmp_path):
    run = RunFolder(tmp_path)
    for step in (99_999_999, 100_000_000):
        write_checkpoint(run, Progress(step), {MODEL: {"w": torch.ones(2)}}, keep=2)
    assert find_checkpoint(run).name == "step-100000000"
