"""A disk that is full, or fails, costs no weights that were written."""

import ctypes
import errno
import os
import shutil
import sys
import traceback
from itertools import pairwise
from pathlib import Path

import pytest

from diffcore import cli
from diffcore.runs.checkpoints import checkpoints, find_checkpoint, verify
from diffcore.runs.folder import RunFolder, append_log, read_log, trim_log
from diffcore.system import files
from tests.support.refusals import refused
from tests.support.toy import ToyWriter, put_in_place, toy_registry
from tests.training.test_loop import assert_same_checkpoint, losses

TRAIN = (
    "--modality", "toy", "--train.steps", "40", "--train.log-every", "5", "--train.checkpoint-every", "10",
    "--train.sample-every", "1000", "--train.evaluate", "0", "--sample.steps", "2", "--denoiser.width", "64",
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy):
    path = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(["train", "--out", str(path), *TRAIN]) == 0
    return RunFolder(path)


def assert_same(run, whole):
    assert losses(run) == losses(whole)
    assert_same_checkpoint(find_checkpoint(run), find_checkpoint(whole))


def small_disk(folder, size):
    """Mount a file system of `size` bytes for this process alone. Raises `OSError` where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER | CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "mount")


def test_a_disk_that_is_really_full(tmp_path, whole):
    """With room for two checkpoints and a half the third fails; when there is room again, training goes on exactly."""
    disk = tmp_path / "disk"
    disk.mkdir()
    sizes = [path.stat().st_size for path in find_checkpoint(whole).iterdir()]
    one = sum(-(-size // 4096) * 4096 for size in sizes)
    process = os.fork()
    if not process:
        status = 1
        try:
            sys.stderr = (tmp_path / "log").open("w")
            try:
                small_disk(disk, 2**22)
            except OSError:
                os._exit(77)
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            (disk / "other").write_bytes(bytes(free - int(2.5 * one) - 10 * 4096))
            run = RunFolder(disk / "run")
            assert cli.main(["train", "--out", str(run.path), *TRAIN]) == 2
            assert {path.name for path in run.checkpoints.iterdir()} == {"step-00000010", "step-00000020"}
            for checkpoint in checkpoints(run):
                verify(checkpoint)
            (disk / "other").unlink()
            assert cli.main(["resume", str(run.path)]) == 0
            assert_same(run, whole)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status == 77:
        pytest.skip("this machine lets nobody mount a small disk")
    said = (tmp_path / "log").read_text()
    assert status == 0, said
    assert "No space left on device. Free some space. Earlier checkpoints are complete, and diffcore resume" in said


def test_metrics_that_cannot_be_written_stop_training_with_a_line(tmp_path, whole, monkeypatch, capsys):
    run, written = RunFolder(tmp_path / "run"), []

    def full(path, lines):
        written.append(1)
        if len(written) == 6:
            with path.open("a") as file:
                file.write('{"step": 30, "los')
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        files.append_lines(path, lines)

    monkeypatch.setattr("diffcore.runs.folder.append_lines", full)
    said = refused(capsys, "train", "--out", run.path, *TRAIN)
    assert "train_log.jsonl: No space left on device. Free some space" in said
    monkeypatch.undo()
    put_in_place(monkeypatch, toy_registry())
    assert [row["step"] for row in read_log(run)] == [5, 10, 15, 20, 25]
    assert cli.main(["resume", str(run.path)]) == 0
    assert_same(run, whole)


def test_pictures_figures_and_reports_are_worth_less_than_weights(tmp_path, whole, monkeypatch, capsys):
    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr(ToyWriter, "together", full)
    monkeypatch.setattr("diffcore.api.session.write_metrics", full)
    monkeypatch.setattr("diffcore.api.session.write_report", full)
    run = RunFolder(tmp_path / "run")
    flags = [*TRAIN, "--train.sample-every", "15", "--train.evaluate", "4"]
    assert cli.main(["train", "--out", str(run.path), *flags]) == 1
    said = capsys.readouterr().err
    assert f"picture and metrics and report could not be made; to try again: diffcore resume {run.path}" in said
    for line in ("no picture at step 15:", "no picture at step 40:", "no metrics:", "no report:"):
        assert line in said
    assert_same(run, whole)


def test_what_is_not_read_back_as_written_is_no_checkpoint(tmp_path, monkeypatch, capsys):
    """A disk that takes everything and keeps something else; the older checkpoints stay."""
    run, plain = RunFolder(tmp_path / "run"), files.read_back

    def forgetful(path):
        content = plain(path)
        return content[:-1] + b"\x7f" if "step-00000030" in str(path) else content

    monkeypatch.setattr("diffcore.runs.checkpoints.read_back", forgetful)
    said = refused(capsys, "train", "--out", run.path, *TRAIN)
    assert (
        "step-00000030/model.safetensors: The file differs from what was written to it. The disk may be failing" in said
    )
    assert [path.name for path in checkpoints(run)] == ["step-00000010", "step-00000020"]


def test_metrics_are_cut_in_place_but_for_copies_made_of_links(tmp_path):
    run = RunFolder(tmp_path)
    append_log(run, [{"step": step, "loss": 1.0} for step in (5, 10, 15)])
    with run.train_log.open("a") as file:
        file.write('{"step": 20, "lo')
    inode = run.train_log.stat().st_ino
    trim_log(run, 10)
    assert [row["step"] for row in read_log(run)] == [5, 10]
    assert run.train_log.read_bytes().endswith(b"}\n")
    assert run.train_log.stat().st_ino == inode
    backup = tmp_path / "backup.jsonl"
    os.link(run.train_log, backup)
    trim_log(run, 5)
    assert [row["step"] for row in read_log(run)] == [5]
    assert len(backup.read_text().splitlines()) == 2


def test_metrics_of_any_length_take_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("diffcore.runs.folder.MOST_ROWS", 10)
    run = RunFolder(tmp_path)
    append_log(run, [{"step": step, "loss": step / 2} for step in range(1, 1001)])
    rows = read_log(run)
    assert len(rows) <= 21
    assert rows[-1]["step"] == 1000
    gaps = {b["step"] - a["step"] for a, b in pairwise(rows[:-1])}
    assert gaps == {64}


def test_no_part_of_a_file_stays(tmp_path, whole):
    copy = tmp_path / "run"
    shutil.copytree(whole.path, copy)
    (copy / ".config.json.4.part").write_text("{")
    (copy / "checkpoints" / ".step-00000050.part").mkdir()
    (copy / "checkpoints" / ".step-00000010.gone").mkdir()
    (copy / "checkpoints" / "step-00000060").mkdir()  # without a manifest it is no checkpoint
    assert [path.name for path in checkpoints(RunFolder(copy))] == ["step-00000030", "step-00000040"]
    assert cli.main(["resume", str(copy), "--train.steps", "45"]) == 0
    left = {path.name for path in (copy / "checkpoints").iterdir()}
    assert left == {"step-00000040", "step-00000045", "step-00000060"}
    assert not list(copy.glob(".*.part"))
