"""kill -9 at any moment: the last good checkpoint loads, and `resume` gives the losses of an unbroken run."""

import os
import signal
import time

import pytest

from diffcore import cli
from diffcore.runs.checkpoints import checkpoints, find_checkpoint, verify
from diffcore.runs.folder import RunFolder, read_log
from tests.support.refusals import refused
from tests.support.toy_process import end, start
from tests.training.test_loop import assert_same_checkpoint, losses

TRAIN = (
    "--modality", "toy", "--train.steps", "30", "--train.log-every", "4", "--train.checkpoint-every", "6",
    "--train.sample-every", "1000", "--train.evaluate", "0", "--sample.steps", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy):
    """An unbroken run."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(["train", "--out", str(path), *TRAIN]) == 0
    return RunFolder(path)


MOMENTS = {
    "step:3": 0,  # before there is a checkpoint
    "file-half:6": 1,
    "file-before-rename:9": 2,
    "file-after-rename:12": 2,
    "rename:3": 2,
    "renamed:3": 3,
    "deleting:1": 2,
    "half-deleted:1": 2,
    "metrics-half:4": 2,
    "metrics:4": 2,
}
"""When a run is killed, and how many checkpoints are then there. They are written in steps 6, 12, 18, 24 and 30."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_was_killed_is_resumed_exactly(tmp_path, whole, moment):
    run = RunFolder(tmp_path / "run")
    assert end(start("train", "--out", run.path, *TRAIN, die=moment)) == -signal.SIGKILL
    assert len(checkpoints(run)) == MOMENTS[moment]
    for checkpoint in checkpoints(run):
        verify(checkpoint)  # what is there is whole
    assert cli.main(["resume", str(run.path)]) == 0
    assert_same(run, whole)
    assert not [path for folder in (run.path, run.checkpoints) for path in folder.glob(".*.part")]
    assert not list(run.checkpoints.glob(".*"))


def assert_same(run, whole):
    assert losses(run) == losses(whole)
    assert_same_checkpoint(find_checkpoint(run), find_checkpoint(whole))
    assert [path.name for path in checkpoints(run)] == [path.name for path in checkpoints(whole)]


def test_killed_while_it_resumes(tmp_path, whole):
    """Twice: in the middle of writing a checkpoint, then in the middle of deleting one."""
    run = RunFolder(tmp_path / "run")
    assert end(start("train", "--out", run.path, *TRAIN, die="file-half:7")) == -signal.SIGKILL
    assert end(start("resume", run.path, die="half-deleted:1")) == -signal.SIGKILL
    assert cli.main(["resume", str(run.path)]) == 0
    assert_same(run, whole)


def test_a_start_that_was_killed_does_not_block_its_folder(tmp_path, toy):
    """Before there is a config.json the folder is as good as empty."""
    path = tmp_path / "run"
    path.mkdir()
    (path / ".run.lock").touch()
    (path / ".config.json.123.part").write_text("{")
    assert cli.main(["train", "--out", str(path), *TRAIN]) == 0
    assert not list(path.glob("*.part"))


def test_a_second_process_is_refused_and_a_dead_one_does_not_block(tmp_path, toy, capsys):
    path, waiting = tmp_path / "run", tmp_path / "waiting"
    first = start("train", "--out", path, *TRAIN, wait="step:20", waiting=waiting)
    try:
        for _ in range(600):
            if waiting.exists():
                break
            time.sleep(0.05)
        assert waiting.exists()
        said = refused(capsys, "resume", path)
        assert said.startswith(f"diffcore: {path} is already being trained by process {first} on ")
        # Readers do not wait.
        assert cli.main(["sample", str(path), "--n", "2", "--steps", "2"]) == 0
        assert cli.main(["config", str(path)]) == 0
        assert cli.main(["evaluate", str(path), "--n", "4", "--steps", "2"]) == 0
    finally:
        os.kill(first, signal.SIGKILL)
        end(first)
    assert cli.main(["resume", str(path)]) == 0
    assert read_log(RunFolder(path))[-1]["step"] == 28
