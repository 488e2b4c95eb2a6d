"""The end of a run, its last picture, metrics and report, is completed by `resume`, and nothing that fails takes it."""

import errno
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

import diffcore as dc
from diffcore import cli
from diffcore.evaluation.evaluate import read_evaluations, read_metrics, write_metrics
from diffcore.evaluation.samples import _measured
from diffcore.plugins.output import Metric
from diffcore.plugins.registry import Provided
from diffcore.runs.checkpoints import checkpoints
from diffcore.runs.ending import made_parts
from diffcore.runs.folder import RunFolder, clean, new_folder, read_log, trim_log
from diffcore.system.files import _new_part, require_writable, write_atomically
from diffcore.training.signals import stop_requests
from tests.support.refusals import refused
from tests.support.toy import TOY, ToyWriter, put_in_place, toy_registry
from tests.support.toy_process import end, start

pytestmark = pytest.mark.usefixtures("toy")

TRAIN = (
    "--modality", "toy", "--train.steps", "6", "--train.log-every", "3", "--train.checkpoint-every", "6",
    "--train.sample-every", "1000", "--train.evaluate", "8", "--sample.steps", "2",
)  # fmt: skip


def trained(path, *flags):
    assert cli.main(["train", "--out", str(path), *TRAIN, *flags]) == 0
    return RunFolder(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy):
    return trained(tmp_path_factory.mktemp("whole") / "run")


def resume(run, *flags):
    return cli.main(["resume", str(run.path), *flags])


def contents(run):
    metrics = [metric for metric in read_metrics(run) if metric.name != "samples_per_second"]
    return metrics, {path.name: path.read_bytes() for path in run.samples.iterdir()}


MOMENTS = (
    "together-half:1", "together:1", "write metrics.json:1", "write evaluations.json:1", "write report.html:1",
    "write end.json:1", "write end.json:2", "write end.json:3",
)  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_was_killed_at_its_end_is_completed(tmp_path, whole, moment, capsys):
    run = RunFolder(tmp_path / "run")
    assert end(start("train", "--out", run.path, *TRAIN, die=moment)) == -signal.SIGKILL
    assert resume(run) == 0
    assert contents(run) == contents(whole)
    assert "<polyline" in run.report.read_text()
    assert len(read_evaluations(run)) == 1
    assert f"{run.path} is trained already, 6 steps" in refused(capsys, "resume", run.path)
    assert [path.name for path in run.samples.iterdir()] == ["step-00000006.csv"]  # no incomplete files


def test_a_picture_on_the_way_that_was_not_made_is_made_by_resume(tmp_path):
    flags = (*TRAIN, "--train.checkpoint-every", "3", "--train.sample-every", "3", "--train.evaluate", "0")
    run, unbroken = RunFolder(tmp_path / "run"), trained(tmp_path / "whole", *flags)
    assert end(start("train", "--out", run.path, *flags, die="together-half:1")) == -signal.SIGKILL
    assert [path.name for path in checkpoints(run)] == ["step-00000003"]
    assert resume(run) == 0
    assert contents(run) == contents(unbroken)
    assert len(contents(run)[1]) == 2


@pytest.mark.parametrize("moment", ["step:6", "renamed:1", "together-half:1", "write metrics.json:1"])
def test_ctrl_c_at_the_end_says_what_completes_it(tmp_path, whole, moment):
    run, said = RunFolder(tmp_path / "run"), tmp_path / "said"
    process = start("train", "--out", run.path, *TRAIN, send=(moment, signal.SIGINT), said=said)
    assert end(process) == 130
    assert f"training is complete; diffcore resume {run.path} makes what is missing at its end" in said.read_text()
    assert resume(run) == 0
    assert contents(run) == contents(whole)


def broken(*arguments, **keywords):
    raise RuntimeError("the code of a plugin failed")


@pytest.mark.parametrize("made", [None, 1, "picture", [[1]], [{}, "picture"]])
def test_a_damaged_list_of_what_was_made_is_no_error(whole, tmp_path, made):
    run = RunFolder(shutil.copytree(whole.path, tmp_path / "run"))
    checkpoint = checkpoints(run)[-1]
    content = json.loads(run.end.read_text())
    run.end.write_text(json.dumps({**content, "made": made}))
    assert made_parts(run, checkpoint, 8) == ({"picture"} if made == [{}, "picture"] else set())


@pytest.mark.parametrize("part", ["together", "html", "judge", "judge_made"])
def test_code_of_a_plugin_that_raises_takes_only_its_own_part(tmp_path, whole, part, monkeypatch, capsys):
    run, missing = RunFolder(tmp_path / "run"), {"together": "picture", "html": "report"}.get(part, "metrics")
    with monkeypatch.context() as patch:
        if part in ("together", "html"):
            patch.setattr(ToyWriter, part, broken)
        else:
            made = broken if part == "judge_made" else lambda *context: broken
            registry = toy_registry()
            registry.modalities["toy"] = Provided(replace(TOY, evaluator=made), "diffcore-toy", "1.0")
            put_in_place(patch, registry)
        assert cli.main(["train", "--out", str(run.path), *TRAIN]) == 1
    said = capsys.readouterr().err
    assert f"the model is trained, but {missing} could not be made; to try again: diffcore resume {run.path}" in said
    assert "the code of a plugin failed" in said
    assert run.report.is_file()
    assert {metric.name for metric in read_metrics(run)} >= {"samples", "samples_per_second"}
    assert resume(run) == 0
    assert contents(run) == contents(whole)


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("an exception that cannot describe itself")


def fails(*context):
    raise MuteError


def leaves(*context):
    raise SystemExit(0)


@pytest.mark.parametrize("raises", [fails, leaves])
@pytest.mark.parametrize("part", ["together", "html", "judge"])
def test_what_is_no_usual_exception_takes_only_its_own_part(tmp_path, part, raises, monkeypatch):
    if part == "judge":
        registry = toy_registry()
        registry.modalities["toy"] = Provided(replace(TOY, evaluator=lambda *context: raises), "diffcore-toy", "1.0")
        put_in_place(monkeypatch, registry)
    else:
        monkeypatch.setattr(ToyWriter, part, raises)
    run = RunFolder(tmp_path / "run")
    assert cli.main(["train", "--out", str(run.path), *TRAIN]) == 1
    assert run.report.is_file()
    assert {metric.name for metric in read_metrics(run)} >= {"samples", "samples_per_second"}


WRONG = {
    "True": True, "float32": numpy.float32(1), "tensor": torch.tensor(1.0), "too large": 10**400, "text": "1",
    "None": None, "complex": 1j,
}  # fmt: skip


@pytest.mark.parametrize(
    "metric", [*(Metric("m", value, "") for value in WRONG.values()), Metric(None, 1.0, ""), Metric("m", 1.0, None)]
)
def test_a_metric_that_is_no_number_with_a_name_takes_no_others(metric):
    said = []
    assert _measured("wrong", lambda *context: [Metric("right", 1.0, ""), metric], None, {}, said.append) == []
    assert len(said) == 1
    assert "the metric wrong" in said[0]


def test_values_that_json_cannot_hold_are_written_as_null(tmp_path, whole):
    run = RunFolder(shutil.copytree(whole.path, tmp_path / "run"))
    write_metrics(run, [Metric(f"m{k}", value, "") for k, value in enumerate((1e308, math.inf, math.nan, 2.0))])
    values = [metric.value for metric in read_metrics(run)]
    assert values[3] == 2
    assert all(map(math.isnan, values[:3]))


def test_evaluations_are_kept_with_their_recipes(tmp_path, capsys):
    run = trained(tmp_path / "run")
    assert cli.main(["evaluate", str(run.path), "--n", "4", "--solver", "ddim", "--steps", "3", "--seed", "2"]) == 0
    first, second = read_evaluations(run)
    assert (first.recipe["n"], first.recipe["solver"], first.recipe["steps"], first.recipe["seed"]) == (
        8,
        "adams",
        2,
        0,
    )
    assert (second.recipe["n"], second.recipe["solver"][:4], second.recipe["seed"]) == (4, "ddim", 2)
    assert first.recipe["checkpoint"] == second.recipe["checkpoint"] == "step-00000006"
    assert read_metrics(run) == list(second.metrics)
    page = run.report.read_text()
    assert "n 8, seed 0, checkpoint step-00000006, solver adams, steps 2, grid tapered, guidance none" in page
    assert "n 4, seed 2, checkpoint step-00000006, solver ddim" in page
    before = [evaluation.recipe for evaluation in read_evaluations(run)]
    assert cli.main(["evaluate", str(run.path), "--n", "8"]) == 0  # the recipe of the first
    assert [evaluation.recipe for evaluation in read_evaluations(run)] == before[::-1]
    assert resume(run, "--train.evaluate", "10") == 0
    assert read_evaluations(run)[-1].recipe["n"] == 10
    assert "trained already" in refused(capsys, "resume", run.path)


def test_a_run_that_cannot_be_written_is_known_before_the_work_and_results_are_shown(tmp_path, monkeypatch, capsys):
    run = trained(tmp_path / "run")
    before = run.metrics.read_bytes()

    def read_only(folder):
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr("diffcore.api.evaluating.require_writable", read_only)
        patch.setattr("diffcore.api.fitting.require_writable", read_only)
        capsys.readouterr()
        assert cli.main(["evaluate", str(run.path), "--n", "4"]) == 0
        said = capsys.readouterr()
        assert "radius_error: " in said.out
        assert f"{run.path} cannot be written to (Read-only file system): the metrics are shown, and not" in said.err
        patch.setattr("diffcore.runs.tuning.tune", broken)
        assert f"{run.path}: Read-only file system" in refused(capsys, "tune", run.path, "--steps", "3")
    assert run.metrics.read_bytes() == before

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.json")

    def refuse(path):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    kept = run.evaluations.read_bytes()
    with monkeypatch.context() as patch:  # what cannot be read now is not lost
        patch.setattr("diffcore.evaluation.evaluate.read_json", refuse)
        assert "Too many open files" in refused(capsys, "evaluate", run.path, "--n", "4")
    assert run.evaluations.read_bytes() == kept
    monkeypatch.setattr("diffcore.evaluation.evaluate.write_json", full)
    capsys.readouterr()
    assert cli.main(["evaluate", str(run.path), "--n", "4"]) == 2
    assert "radius_error: " in capsys.readouterr().out
    monkeypatch.setattr("diffcore.runs.fitted_grid.write_summed_json", full)
    flags = ("--steps", "3", "--trajectories", "4", "--iterations", "1")
    cli.main(["tune", str(run.path), *flags])
    assert "error on new noise: " in capsys.readouterr().err


def test_a_closed_terminal_saves_a_checkpoint_and_nohup_stays(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert end(start("train", "--out", run.path, *TRAIN, send=("step:4", signal.SIGHUP))) == 130
    assert [path.name for path in checkpoints(run)] == ["step-00000004"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_shorter_than_a_line_of_the_log_writes_one_and_goes_on_as_an_unbroken_one(tmp_path):
    short = trained(tmp_path / "short", "--train.log-every", "10", "--train.evaluate", "0")
    (row,) = read_log(short)
    assert (row["step"], row["partial"]) == (6, 1)
    assert resume(short, "--train.steps", "20") == 0
    unbroken = trained(tmp_path / "long", "--train.log-every", "10", "--train.evaluate", "0", "--train.steps", "20")
    assert [(row["step"], row["loss"]) for row in read_log(short)] == [
        (row["step"], row["loss"]) for row in read_log(unbroken)
    ]


def test_a_bad_byte_in_the_log_costs_one_line_and_is_said(tmp_path, caplog):
    run = RunFolder(tmp_path)
    lines = [json.dumps({"step": step, "loss": 1.0}).encode() + b"\n" for step in (1, 2, 3)]
    run.train_log.write_bytes(lines[0] + b"\xff" + lines[1] + lines[2] + b'{"step": 4, "lo')
    assert [row["step"] for row in read_log(run)] == [1, 3]
    assert "train_log.jsonl has damaged lines, which are left out: 1" in caplog.text


BAD = {
    "long": b" " * 200_000,
    "zeros": bytes(150_000),
    "a larger step": b'{"step": 95, "loss": 1.0}',
    "text": b'{"step": "2", "loss": 1.0}',
}


@pytest.mark.parametrize("kind", BAD)
def test_other_damage_of_the_log_costs_no_line_after_it(tmp_path, caplog, kind):
    run = RunFolder(tmp_path)
    lines = [json.dumps({"step": step, "loss": 1.0}).encode() + b"\n" for step in (1, 3, 4, 9)]
    run.train_log.write_bytes(lines[0] + BAD[kind] + b"\n" + b"".join(lines[1:]))
    assert [row["step"] for row in read_log(run)] == [1, 3, 4, 9]
    assert "train_log.jsonl has damaged lines, which are left out: 1" in caplog.text
    trim_log(run, 4)  # as a run that is resumed does
    assert run.train_log.read_bytes().endswith(lines[1] + lines[2])
    assert [row["step"] for row in read_log(run)] == [1, 3, 4]
    run.train_log.write_bytes(lines[0] + BAD[kind] + b"\n")
    trim_log(run, 4)
    assert run.train_log.read_bytes() == lines[0]


def test_parts_that_another_process_is_writing_are_not_deleted(tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / ".metrics.json.4.part").write_text("{")
    with _new_part(run.metrics) as file:
        clean(run)
        assert [path.name for path in tmp_path.iterdir()] == [Path(file.name).name]
        write_atomically(run.metrics, b"another of the same process number")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_folder_that_another_process_cleans_can_be_written(tmp_path, monkeypatch):
    write = Path.write_bytes

    def cleaned(path, content):
        write(path, content)
        clean(RunFolder(tmp_path))

    monkeypatch.setattr(Path, "write_bytes", cleaned)
    require_writable(tmp_path)


def test_a_killed_start_leaves_its_folder_free(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    for name in (".run.lock", ".run.holder", ".config.json.1.part", run.codec.name):
        (run.path / name).touch()
    assert new_folder(run.path, "toy", "default") == run.path
    run.config.touch()
    with pytest.raises(dc.UserError, match="exists already"):
        new_folder(run.path, "toy", "default")


def test_a_checkpoint_without_a_manifest_is_said_to_be_refused(tmp_path, caplog):
    run = trained(tmp_path / "run", "--train.evaluate", "0")
    (run.checkpoints / "step-00000009").mkdir()
    assert dc.load(run.path).loaded.checkpoint.name == "step-00000006"
    assert "step-00000009 is refused: it has no manifest.json" in caplog.text


def test_a_changed_configuration_is_noticed(tmp_path, caplog):
    run = trained(tmp_path / "run", "--train.evaluate", "0")
    dc.load(run.path)
    assert "is not as it was written" not in caplog.text
    run.config.write_bytes(run.config.read_bytes().replace(b'"scale": 1.0', b'"scale": 1.5', 1))
    dc.load(run.path)
    assert f"{run.config} is not as it was written: it was edited, or it is damaged" in caplog.text
