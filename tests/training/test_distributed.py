"""Two processes, joined by gloo, do what one does; what they leave behind goes on in another number of them."""

import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import run as launcher

from diffcore import cli
from diffcore.evaluation.evaluate import read_metrics
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, checkpoints, find_checkpoint, read_progress, read_tensors
from diffcore.runs.folder import RunFolder, read_log
from diffcore.system import distributed
from diffcore.training.parallel import blocks
from tests.support.several import bars, dit, forked, registry, unet
from tests.support.toy import put_in_place

ROOT = Path(__file__).parents[2]
LOSS, WEIGHTS, MOMENTS = 2e-6, 1e-5, 5e-6
"""How far losses may be off, as a share; weights; and the optimiser's moments, as a share of the largest."""
STEPS, RATE = 8, 5e-3
SHORT = ["--train.log-every", "1", "--train.warmup-steps", "2", "--train.learning-rate", str(RATE)]

RUNS = {
    "toy": ["toy", "--train.batch-size", "33", "--train.sample-every", "5"],
    "unet": ["bars", "--train.batch-size", "15", "--denoiser", "unet", "--denoiser.learned-variance"],
    "dit": ["bars", "--train.batch-size", "16", "--denoiser", "dit"],
    "beads": ["beads", "--train.batch-size", "16", "--sample.steps", "4"],
    "teller": ["beads", "--train.batch-size", "17", "--task", "classify"],
}
"""Trainings with batches that two divides, and with some that it does not."""

DIVERGING = ["--train.learning-rate", "1e4", "--train.warmup-steps", "1000", "--train.gradient-clip", "1e9"]
DIVERGING += ["--train.checkpoint-every", "2", "--train.on-divergence", "step-back", "--train.step-back-rate", "1e-6"]
"""Steps that soon are far too large, though not before there is a checkpoint."""

TOGETHER = [("toy", "ddp"), ("unet", "ddp"), ("unet", "fsdp"), ("dit", "fsdp"), ("beads", "fsdp"), ("teller", "ddp")]
IN_PARTS = dict.fromkeys([("toy", "ddp"), ("dit", "fsdp")], ("--train.accumulate", "3"))
RESUMED = [("toy", "ddp"), ("dit", "ddp"), ("unet", "fsdp")]
"""What two processes do, and how."""


def training(name, out, *more, steps=STEPS):
    words = ["train", "--modality", *RUNS[name], *SHORT, "--train.evaluate", 0, "--train.steps", steps]
    return [str(word) for word in (*words, "--out", out, *more)]


def launch(said, words, forks):
    """Be torchrun with these words, in the root of the repository; what it and its processes say goes to a file."""
    with said.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        os.chdir(ROOT)
        os.environ["OMP_NUM_THREADS"] = "1"
        if forks:
            read = launcher.config_from_args
            launcher.config_from_args = lambda options: as_forks(*read(options))
        launcher.main(words)


def as_forks(config, python, words):
    """What torchrun starts, as a call in a fork of it instead of a new interpreter."""
    config.start_method = "fork"
    return config, forked, words[words.index("tests.support.several") + 1 :]


def together(said, *arguments, forks=True):
    """The exit status of two processes of `tests.support.several`, and what they said.

    torchrun itself is a fork of this process, which has imported PyTorch. The two that it starts are forks, too, or new
    interpreters, each of which takes seconds to import everything.
    """
    words = ["--standalone", "--nproc-per-node", "2", "-m", "tests.support.several", *map(str, arguments)]
    torchrun = multiprocessing.get_context("fork").Process(target=launch, args=(said, words, forks))
    torchrun.start()
    torchrun.join(timeout=300)
    if torchrun.is_alive():
        torchrun.terminate()
        torchrun.join()
    return torchrun.exitcode, said.read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, few_pictures):
    """Runs of one process, and of two, which are started once and do all of theirs."""
    path = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, registry())
        for name in RUNS:
            assert cli.main(training(name, path / "one" / name)) == 0
        for name, way in RESUMED:
            out = path / "resumed" / f"{name}-{way}"
            assert cli.main(training(name, out, "--train.parallel", way, steps=STEPS // 2)) == 0
        assert cli.main(training("dit", path / "one" / "diverged", *DIVERGING)) == 0
        shutil.copytree(path / "one" / "beads", path / "judged")
        shutil.copytree(path / "one" / "teller", path / "examined")
        longer = ["--train.steps", str(STEPS)]
        fsdp = ["--train.parallel", "fsdp"]
        sample = ["sample", str(path / "one" / "toy"), "--n"]
        jobs = [
            (training(name, path / "two" / f"{name}-{way}", "--train.parallel", way, *IN_PARTS.get((name, way), ())), 0)
            for name, way in TOGETHER
        ]
        jobs += [
            (training("dit", path / f"diverged-{way}", *DIVERGING, "--train.parallel", way), 0)
            for way in ("ddp", "fsdp")
        ]
        jobs += [(["resume", str(path / "resumed" / f"{name}-{way}"), *longer], 0) for name, way in RESUMED]
        jobs += [
            (training("unet", path / "begun", *fsdp, steps=STEPS // 2), 0),
            ([*sample, "7", "--batch-size", "2", "--out", str(path / "two.csv")], 0),
            ([*sample, "1", "--out", str(path / "single.csv")], 0),
            (["evaluate", str(path / "judged"), "--n", "21"], 0),
            (["evaluate", str(path / "examined"), "--n", "21"], 0),
            (training("toy", path / "stopped", "--denoiser", "trouble"), cli.INTERRUPTED),
            (["train", "--modality", "toy", "--train.minutes", "0.01", "--out", str(path / "timed")], 0),
        ]
        (path / "jobs.json").write_text(json.dumps(jobs))
        status, said = together(path / "said", "all", path / "jobs.json", forks=False)
        assert status == 0, said
        assert cli.main(["resume", str(path / "begun"), *longer]) == 0
        assert cli.main([*sample, "7", "--out", str(path / "one.csv")]) == 0
        for name in ("beads", "teller"):
            assert cli.main(["evaluate", str(path / "one" / name), "--n", "21"]) == 0
    return path


def assert_same(a, b):
    """Losses step by step, weights, their average, and the optimiser's moments.

    Adam divides by the gradient's size, so a weight whose gradient is zero but for rounding, such as the bias of keys
    in attention, goes where rounding sends it: weights are compared where there is a gradient.
    """
    first, second = (read_log(RunFolder(path)) for path in (a, b))
    assert [row["step"] for row in first] == [row["step"] for row in second] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in second] == pytest.approx([row["loss"] for row in first], rel=LOSS)
    a, b = (find_checkpoint(RunFolder(path)) for path in (a, b))
    moments, others = read_tensors(a, TRAINING), read_tensors(b, TRAINING)
    assert moments.keys() == others.keys()
    largest = {}
    for kind in ("step", "exp_avg", "exp_avg_sq"):
        names = [name for name in moments if name.partition("/")[0] == kind]
        largest[kind] = max(moments[name].abs().max().item() for name in names)
        assert max((moments[name] - others[name]).abs().max().item() for name in names) <= MOMENTS * largest[kind]
    felt = {name: moments[f"exp_avg_sq/{name}"] > 1e-10 * largest["exp_avg_sq"] for name in read_tensors(a, MODEL)}
    assert sum(int(where.sum()) for where in felt.values()) > 0.99 * sum(where.numel() for where in felt.values())
    for file in (MODEL, EMA):
        left, right = read_tensors(a, file), read_tensors(b, file)
        assert left.keys() == right.keys()
        for name, where in felt.items():
            torch.testing.assert_close(right[name][where], left[name][where], rtol=0, atol=WEIGHTS, msg=name)


@pytest.mark.parametrize(("name", "way"), TOGETHER)
def test_two_processes_train_as_one(folder, name, way):
    assert_same(folder / "one" / name, folder / "two" / f"{name}-{way}")


@pytest.mark.parametrize(("name", "way"), RESUMED)
def test_what_one_process_began_two_finish(folder, name, way):
    assert_same(folder / "one" / name, folder / "resumed" / f"{name}-{way}")


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_step_back_as_one(folder, way):
    first, second = (
        [json.loads(line) for line in (folder / path / "train_log.jsonl").read_text().splitlines()]
        for path in ("one/diverged", f"diverged-{way}")
    )
    (back,) = [row for row in second if "steps_back" in row]
    assert back["step"] >= 2  # there was a checkpoint to go back to
    assert [row.get("where") for row in second] == [row.get("where") for row in first]
    assert [row["step"] for row in second] == [row["step"] for row in first]
    known = [(a["loss"], b["loss"]) for a, b in zip(first, second, strict=True) if "loss" in a]
    assert [loss for _, loss in known] == pytest.approx([loss for loss, _ in known], rel=1e-4)


def test_what_two_processes_began_with_shares_one_finishes(folder):
    assert_same(folder / "one" / "unet", folder / "begun")


def test_the_steps_that_are_compared_change_the_weights(folder):
    """Far more than the tolerance, so that agreement means something."""
    first, last = (read_tensors(path, MODEL) for path in checkpoints(RunFolder(folder / "resumed" / "dit-ddp")))
    moved = max((first[name] - last[name]).abs().max().item() for name in first)
    assert moved > 1000 * WEIGHTS


def test_samples_are_those_of_one_process(folder):
    one, two, single = (
        torch.tensor([[float(word) for word in line.split(",")] for line in (folder / file).read_text().splitlines()])
        for file in ("one.csv", "two.csv", "single.csv")
    )
    assert one.shape == (7, 2)
    torch.testing.assert_close(two, one, rtol=0, atol=2e-4)  # the file has four decimals
    torch.testing.assert_close(single, one[:1], rtol=0, atol=2e-4)


def figures_of(path):
    return {
        metric.name: metric.value for metric in read_metrics(RunFolder(path)) if metric.name != "samples_per_second"
    }


@pytest.mark.parametrize(("one", "two"), [("beads", "judged"), ("teller", "examined")])
def test_figures_are_those_of_one_process(folder, one, two):
    """Of a model with sizes and targets, and of a classifier."""
    expected = figures_of(folder / "one" / one)
    assert len(expected) > 5
    assert figures_of(folder / two) == pytest.approx(expected, rel=1e-4, nan_ok=True)


def test_the_first_process_alone_writes_and_speaks(folder):
    said, run = (folder / "said").read_text(), folder / "two" / "toy-ddp"
    assert said.count(f"{run}: 200 examples") == 1
    assert said.count(f"report: {run}") == 1
    assert {path.name for path in (folder / "two").iterdir()} == {f"{name}-{way}" for name, way in TOGETHER}
    assert sorted(path.name for path in run.iterdir()) == sorted(
        path.name for path in (folder / "one" / "toy").iterdir()
    )
    assert not list(folder.rglob("*.part"))


def test_all_stop_where_one_is_asked_to(folder):
    """The second process gets the signal of Ctrl-C in its third step."""
    run = RunFolder(folder / "stopped")
    assert [path.name for path in checkpoints(run)] == ["step-00000003"]
    assert "stopped at step 3; go on with: diffcore resume" in (folder / "said").read_text()


def test_minutes_end_all_processes_at_the_same_step(folder):
    assert read_progress(find_checkpoint(RunFolder(folder / "timed"))).seconds >= 0.6


# Failures


OF_A_PROCESS = "[rank"
"""How the lines of a traceback begin in processes that are joined; torchrun has one of its own, without."""


def test_a_mistake_gets_one_line(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("")
    status, said = together(tmp_path / "said", "command", *training("toy", tmp_path / "there"))
    assert status == 1
    (line,) = [line for line in said.splitlines() if line.startswith("diffcore:")]
    assert "exists already: choose another --out" in line
    assert OF_A_PROCESS not in said


def test_a_failure_in_one_process_ends_all_with_one_message(tmp_path):
    status, said = together(
        tmp_path / "said", "command", *training("toy", tmp_path / "run", "--denoiser", "trouble", "--denoiser.fails")
    )
    assert status == 1
    lines = [line for line in said.splitlines() if line.startswith(OF_A_PROCESS)]
    assert [line for line in lines if "Traceback" in line] == ["[rank1]: Traceback (most recent call last):"]
    assert lines[-1] == "[rank1]: RuntimeError: trouble in one process"
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_a_process_that_is_killed_ends_the_other_with_one_line(tmp_path):
    status, said = together(
        tmp_path / "said", "command", *training("toy", tmp_path / "run", "--denoiser", "trouble", "--denoiser.dies")
    )
    assert status == 1
    (line,) = [line for line in said.splitlines() if line.startswith("diffcore:")]
    assert "another of the 2 processes ended" in line
    assert "diffcore resume" in line
    assert OF_A_PROCESS not in said


# One process


def test_alone_nothing_changes():
    assert (distributed.world(), distributed.rank(), distributed.leads()) == (1, 0, True)
    assert distributed.rank_slice(7) == range(7)
    assert distributed.agreed(2.5, True) == (2.5, True)
    assert distributed.gathered(lambda: 3) == [3]
    values = torch.randn(3)
    assert distributed.mean(values) is values


def test_parts_are_all_of_it(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 4)
    pieces = []
    for number in range(4):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        pieces.append(distributed.rank_slice(10))
    assert [index for piece in pieces for index in piece] == list(range(10))
    assert {len(piece) for piece in pieces} == {2, 3}


def test_a_batch_must_have_an_example_for_each_process(monkeypatch, tmp_path, capsys):
    put_in_place(monkeypatch, registry())
    monkeypatch.setattr("diffcore.training.parallel.world", lambda: 40)
    assert cli.main(training("toy", tmp_path / "run")) == 2
    assert "a batch of 33 cannot be shared by 40 processes: raise --train.batch-size" in capsys.readouterr().err


def test_blocks_are_what_lists_hold():
    small = unet(type("Options", (), {"learned_variance": False}), None)
    found = blocks(small)
    assert [type(block).__name__ for block in found] == ["ResidualBlock"] * 2 + ["Conv2d"] + ["ResidualBlock"] + [
        "Conv2d",
        "ResidualBlock",
    ]
    assert len(blocks(dit(None, None))) == 3
    own = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert blocks(own) == []
    own.shards = [own[1]]
    assert blocks(own) == [own[1]]
    assert len(bars(type("Options", (), {"n": 4})).examples) == 4
