"""Tables of runs: what they say of whole, stopped, running, damaged and hostile runs."""

import json

import pytest

from diffcore import cli
from diffcore.runs.folder import RunFolder
from diffcore.runs.listing import list_runs, sorted_runs
from diffcore.runs.lock import locked


@pytest.fixture
def folder(tmp_path):
    """Two runs, of which one was stopped, at different depths."""
    _write(tmp_path / "toy" / "first", 40, 40, {"accuracy": 0.9, "accuracy_real": 1.0, "samples": 20})
    (tmp_path / "toy" / "first" / "end.json").write_text("{}")
    _write(tmp_path / "toy" / "deep" / "second", 12, 40, {"accuracy": 0.95})
    (tmp_path / "toy" / "first" / "checkpoints" / "step-40").mkdir(parents=True)
    (tmp_path / "toy" / "first" / "checkpoints" / "step-40" / "config.json").write_text("{}")
    return tmp_path


def _write(path, steps, planned, metrics):
    path.mkdir(parents=True)
    settings = {"modality": "toy", "preset": "default", "task": {"name": "denoise"}, "data": {"name": "rings"}}
    settings["train"] = {"steps": planned}
    (path / "config.json").write_text(json.dumps({"settings": settings}))
    rows = [json.dumps({"step": step, "seconds": 3.0 * step, "loss": 1 / step}) for step in range(4, steps + 1, 4)]
    (path / "train_log.jsonl").write_text("\n".join([*rows, '{"step": 99, "sec']))
    listed = [{"name": name, "value": value, "meaning": ""} for name, value in metrics.items()]
    (path / "metrics.json").write_text(json.dumps(listed))


def test_a_run_is_listed_once_with_what_its_files_say(folder):
    second, first = list_runs(folder)
    assert first.path == folder / "toy" / "first"
    assert (first.modality, first.task, first.data, first.preset) == ("toy", "denoise", "rings", "default")
    assert (first.steps, first.planned, first.minutes, first.state) == (40, 40, 2.0, "ended")
    assert first.metrics == {"accuracy": 0.9, "samples": 20}
    assert first.size == sum(path.stat().st_size for path in first.path.rglob("*") if path.is_file())
    assert (second.steps, second.planned, second.state) == (12, 40, "stopped")


def test_runs_are_sorted_by_columns_and_metrics_and_those_without_come_last(folder):
    runs = list_runs(folder)
    assert [run.path.name for run in sorted_runs(runs, "accuracy")] == ["second", "first"]
    assert [run.path.name for run in sorted_runs(runs, "samples")] == ["first", "second"]
    assert [run.path.name for run in sorted_runs(runs, "steps")] == ["first", "second"]


def test_a_run_that_a_process_trains_says_so(folder):
    with locked(RunFolder(folder / "toy" / "deep" / "second")):
        assert list_runs(folder)[0].state == "training"
    assert list_runs(folder)[0].state == "stopped"


def test_the_table_and_its_json(folder, capsys):
    assert cli.main(["runs", str(folder), "--sort", "accuracy"]) == 0
    head, best, other = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "modality", "data", "task", "preset", "steps", "minutes", "size", "state", "metrics"]
    assert best.split()[:6] == ["toy/deep/second", "toy", "rings", "denoise", "default", "12"]
    assert "12 of 40" in best
    assert best.endswith("accuracy 0.95")
    assert "2.0" in other.split()
    assert cli.main(["runs", str(folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["metrics"]["accuracy"] for row in rows] == [0.95, 0.9]


def test_damaged_and_hostile_runs_are_a_line_each(folder, capsys):
    bad = folder / "bad"
    bad.mkdir()
    (bad / "config.json").write_text("{")
    odd = folder / "odd\x1b[31m"
    _write(odd, 8, 8, {"accuracy": 0.5})
    assert cli.main(["runs", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "cannot be read as JSON" in next(line for line in printed.splitlines() if line.startswith("bad"))
    assert len(printed.splitlines()) == 5


def test_without_any_run_the_way_to_one_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["runs", "--sort", "steps"]) == 0
    assert capsys.readouterr().out == "no runs in runs: diffcore train makes one\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "no folder missing"),
        ([".", "--sort", "nothing"], "the runs have no value of this name"),
        ([".", "--metrics", "nothing"], "has a metric of this name"),
        (["--jsn"], "unknown option '--jsn'"),
        (["one", "two"], "give one folder, not 2"),
    ],
)
def test_mistakes_are_told_in_a_line(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder)
    assert cli.main(["runs", *arguments]) == 2
    assert message in capsys.readouterr().err
