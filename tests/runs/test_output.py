"""Samples are written as they are drawn: an interruption loses at most a batch, and memory does not grow with `n`."""

import json
import signal
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore import cli
from diffcore.denoising.denoiser import Denoiser
from diffcore.process.schedules import Cosine
from diffcore.runs import generation
from diffcore.runs.drawing import Drawing
from diffcore.runs.generation import example_conditions
from diffcore.runs.model import Model, numbers_of_a_sample
from diffcore.runs.output import write_samples
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.sampling.solvers import ddim
from diffcore.states.spaces import Euclidean
from tests.support.measured import usage_of
from tests.support.refusals import refused
from tests.support.toy import DENOISE, TOY, ToyWriter
from tests.support.toy_process import end, start

pytestmark = pytest.mark.usefixtures("toy")

FLAGS = ("--n", "18", "--batch-size", "4", "--steps", "2", "--seed", "3")


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy):
    path = tmp_path_factory.mktemp("output") / "run"
    assert (
        cli.main(["train", "--modality", "toy", "--out", str(path), "--train.evaluate", "0", "--train.steps", "4"]) == 0
    )
    return path


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The files of a call that was not interrupted."""
    return drawn(run, tmp_path_factory.mktemp("whole") / "out")


def drawn(run, out, *flags):
    assert cli.main(["sample", str(run), "--out", str(out), *FLAGS, *flags]) == 0
    return content(out)


def content(out):
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def files_of(out):
    return sorted(path.name for path in out.glob("[0-9]*.csv"))


def test_large_samples_are_drawn_in_smaller_batches(run, whole, tmp_path, monkeypatch):
    """A toy sample has three numbers; with a limit of three and a half samples, three are drawn at once."""
    trained = dc.load(run)
    size = numbers_of_a_sample(trained.model.codec)
    assert size == 3
    monkeypatch.setattr(generation, "MOST_AT_ONCE", 3 * size + size // 2)
    assert generation.batch_size_of(trained.model, SamplingConfig(ddim(), batch_size=4)) == 3
    assert generation.batch_size_of(trained.model, SamplingConfig(ddim(), batch_size=2)) == 2
    assert drawn(run, tmp_path / "out") == whole
    monkeypatch.setattr(generation, "MOST_AT_ONCE", 1)
    assert generation.batch_size_of(trained.model, SamplingConfig(ddim(), batch_size=4)) == 1
    batches = []
    generation.generate(
        trained.model, SamplingConfig(ddim(), steps=1), example_conditions(trained.model, 3), 3, 0, batches.append
    )
    assert batches == [1, 1, 1]


MOMENTS = {"each-half:1": 0, "each:1": 0, "each-half:3": 8, "each:5": 16, "together-half:1": 18, "together:1": 18}
"""When a call is killed, and how many of the 18 samples, in batches of 4, are then there."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_call_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(run, whole, tmp_path, moment):
    out = tmp_path / "out"
    assert end(start("sample", run, "--out", out, *FLAGS, die=moment)) == -signal.SIGKILL
    there = files_of(out)
    assert len(there) == MOMENTS[moment]
    assert all((out / name).read_bytes() == whole[name] for name in there)  # what has a name is whole
    inodes = [(out / name).stat().st_ino for name in there]
    assert drawn(run, out) == whole
    assert [(out / name).stat().st_ino for name in there] == inodes  # not written again


@pytest.mark.parametrize("moment", ["kept:3", "together-half:1", "together:1"])
def test_one_file_for_all_is_there_whole_or_not_and_its_samples_are_not_drawn_again(run, tmp_path, moment, monkeypatch):
    out = tmp_path / "all.csv"
    assert end(start("sample", run, "--out", out, *FLAGS, die=moment)) == -signal.SIGKILL
    assert not out.exists()
    monkeypatch.setattr("diffcore.runs.output._write_batch", counted(rows := []))
    assert cli.main(["sample", str(run), "--out", str(out), *FLAGS]) == 0
    assert sum(rows) == (10 if moment == "kept:3" else 0)
    assert [path.name for path in tmp_path.iterdir()] == ["all.csv"]
    again = tmp_path / "unbroken.csv"
    assert cli.main(["sample", str(run), "--out", str(again), *FLAGS]) == 0
    assert again.read_bytes() == out.read_bytes()


def counted(rows):
    from diffcore.runs.output import _write_batch

    def write(place, drawing, writer, batch, *others):
        rows.append(len(batch))
        _write_batch(place, drawing, writer, batch, *others)

    return write


def test_ctrl_c_keeps_what_was_drawn_and_says_so(run, whole, tmp_path):
    out, said = tmp_path / "out", tmp_path / "said"
    process = start("sample", run, "--out", out, *FLAGS, send=("each-half:3", signal.SIGINT), said=said)
    assert end(process) == 130
    assert len(files_of(out)) == 8
    assert f"{out}: 8 of 18 samples are drawn; the same call draws the rest" in said.read_text()
    assert drawn(run, out) == whole


def test_batches_of_another_size_and_fewer_or_more_samples_go_on_with_the_same_ones(run, whole, tmp_path, capsys):
    out = tmp_path / "out"
    assert end(start("sample", run, "--out", out, *FLAGS, die="each:3")) == -signal.SIGKILL
    assert cli.main(["sample", str(run), "--out", str(out), *FLAGS, "--n", "11", "--batch-size", "7"]) == 0
    assert len(files_of(out)) == 11
    assert "11 samples" in capsys.readouterr().err
    assert {**drawn(run, out), "recipe.json": b""} == {**whole, "recipe.json": b""}
    capsys.readouterr()
    assert cli.main(["sample", str(run), "--out", str(out), *FLAGS, "--n", "5"]) == 0
    assert "5 of them from an earlier call" in capsys.readouterr().err
    assert len(files_of(out)) == 18
    (out / "0007-outer.csv").write_bytes(b"")  # as after a power failure
    assert drawn(run, out) == whole


OTHERS = {
    "seed": ("--seed", "4"),
    "steps": ("--steps", "3"),
    "solver": ("--solver", "ddim"),
    "guidance": ("--guidance", "2"),
    "conditions": ("--condition", "ring=inner"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_recipe_is_refused_with_the_difference_and_another_name(run, tmp_path, capsys, name):
    out = tmp_path / "out"
    before = drawn(run, out)
    said = refused(capsys, "sample", run, "--out", out, *FLAGS, *OTHERS[name])
    assert f"{out}: it contains other samples ({name} is " in said
    assert f"choose another --out, such as {out}-2, or --replace them" in said
    assert content(out) == before
    assert cli.main(["sample", str(run), "--out", str(out), *FLAGS, "--n", "4", *OTHERS[name], "--replace"]) == 0
    assert len(files_of(out)) == 4


def test_what_is_not_a_folder_of_samples_is_never_touched(run, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "0001.csv").write_text("mine")
    for flags in ((), ("--replace",)):
        said = refused(capsys, "sample", run, "--out", out, *FLAGS, *flags)
        assert f"{out} exists already and is not a folder of samples of a known recipe" in said
    assert content(out) == {"0001.csv": b"mine"}
    (tmp_path / "all.csv").write_text("mine")
    said = refused(capsys, "sample", run, "--out", tmp_path / "all.csv", *FLAGS)
    assert f"all.csv exists already: choose another --out, such as {tmp_path / 'all-2.csv'}, or --replace" in said
    assert cli.main(["sample", str(run), "--out", str(tmp_path / "all.csv"), *FLAGS, "--replace"]) == 0
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 18


def test_another_checkpoint_is_another_recipe_wherever_the_run_is(run, tmp_path, capsys):
    import shutil

    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    out = tmp_path / "out"
    drawn(run, out)
    assert drawn(copy, out)  # the same weights
    assert cli.main(["resume", str(copy), "--train.steps", "5"]) == 0
    said = refused(capsys, "sample", copy, "--out", out, *FLAGS)
    assert "checkpoint is step-00000005, there step-00000004; weights is " in said


def test_without_out_the_same_call_goes_on_and_another_gets_another_folder(run, capsys):
    samples = run / "samples"
    for flags, name in (((), "seed-3"), ((), "seed-3"), (("--condition", "ring=inner"), "seed-3-2"), ((), "seed-3")):
        assert cli.main(["sample", str(run), *FLAGS, *flags]) == 0
        assert f"18 samples: {samples / name}, together in " in capsys.readouterr().err
    assert {path.name for path in samples.glob("seed-*")} == {"seed-3", "seed-3-2"}


def test_a_second_call_for_the_same_place_is_refused_while_the_first_draws(run, tmp_path, capsys, monkeypatch):
    out, said = tmp_path / "out", []
    each = ToyWriter.each

    def nested(self, *arguments):
        if not said:
            said.append(refused(capsys, "sample", run, "--out", out, *FLAGS))
        return each(self, *arguments)

    monkeypatch.setattr(ToyWriter, "each", nested)
    drawn(run, out)
    assert f"another command is drawing samples to {out}" in said[0]


def meanwhile(monkeypatch, target, *command):
    """Let another call run right after the first call of a function of diffcore."""
    module, name = target.rsplit(".", 1)
    function, calls = getattr(import_module(module), name), []

    def interrupted(*arguments):
        found = function(*arguments)
        calls.append(command)
        if len(calls) == 1:
            assert cli.main([*map(str, command)]) == 0
        return found

    monkeypatch.setattr(target, interrupted)


def test_two_calls_at_the_same_time_get_different_folders(run, capsys, monkeypatch):
    flags = ("--n", "2", "--steps", "1", "--seed", "11")
    meanwhile(monkeypatch, "diffcore.api.run.default_place", "sample", run, *flags, "--condition", "ring=outer")
    assert cli.main(["sample", str(run), *flags, "--condition", "ring=inner"]) == 0
    places = {"seed-11": "inner", "seed-11-2": "outer"}
    assert {path.name for path in (run / "samples").glob("seed-11*")} == places.keys()
    for name, ring in places.items():
        assert files_of(run / "samples" / name) == [f"0000-{ring}.csv", f"0001-{ring}.csv"]


@pytest.mark.parametrize("name", ["out", "out.csv"])
def test_samples_that_another_call_has_written_meanwhile_are_kept(run, tmp_path, capsys, monkeypatch, name):
    out = tmp_path / name
    command = ("sample", run, "--out", out, "--n", "2", "--steps", "1", "--condition")
    meanwhile(monkeypatch, "diffcore.runs.place._check_content", *command, "ring=outer")
    said = refused(capsys, *command, "ring=inner")
    assert f"{out} exists already" in said if name == "out.csv" else f"{out}: it contains other samples" in said
    assert [path.name for path in tmp_path.iterdir()] == [name]
    written = content(out) if out.is_dir() else out.read_bytes()
    again = tmp_path / f"again{out.suffix}"
    assert cli.main(["sample", str(run), "--out", str(again), *map(str, command[4:]), "ring=outer"]) == 0
    assert (content(again) if again.is_dir() else again.read_bytes()) == written


def test_a_refused_call_leaves_no_default_folder(run, capsys, monkeypatch):
    def fails(*arguments):
        raise dc.UserError("no")

    before = {path.name for path in (run / "samples").iterdir()}
    monkeypatch.setattr(Drawing, "draw_parts", fails)
    refused(capsys, "sample", run, "--n", "2", "--seed", "12")
    assert {path.name for path in (run / "samples").iterdir()} == before


def test_a_refused_call_leaves_no_folder(run, tmp_path, capsys):
    refused(capsys, "sample", run, "--out", tmp_path / "a" / "b", *FLAGS, "--label", "middle")
    refused(capsys, "sample", run, "--out", tmp_path / "a" / "b.csv", *FLAGS, "--n", "1001")
    assert not list(tmp_path.iterdir())


def test_overview_and_summary_are_bounded_and_say_so(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffcore.runs.output.MOST_SHOWN", 5)
    monkeypatch.setattr("diffcore.runs.output.MOST_KEPT", 7)
    monkeypatch.setattr(
        ToyWriter, "summary", lambda self, samples, captions: [f"{len(samples)} of toys"], raising=False
    )
    drawn(run, tmp_path / "out")
    said = capsys.readouterr().err
    assert "18 samples: " in said
    assert "the first 5 together in " in said
    assert "of the first 7: 7 of toys" in said
    assert len((tmp_path / "out" / "overview" / "grid.csv").read_text().splitlines()) == 5


def test_a_picture_of_too_many_samples_is_refused_before_the_work_and_a_stream_is_not(
    run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("diffcore.runs.samples.MOST_TOGETHER", 10)
    said = refused(capsys, "sample", run, "--out", tmp_path / "all.csv", *FLAGS)
    assert "all.csv can show at most 10 samples, and 18 are asked for: give a folder" in said
    samples = dc.load(run).sample(18, steps=2, seed=3)
    with pytest.raises(dc.UserError, match="can show at most 10 samples, and 18 are asked for"):
        samples.save(tmp_path / "all.csv")

    def stream(self, batches, path):
        sizes = [len(captions) for _, captions in batches]
        path.write_text("\n".join(f"{value:.4f}" for samples, _ in batches for value in samples[:, 0].tolist()))
        assert sizes in ([4, 4, 4, 4, 2], [18])

    monkeypatch.setattr(ToyWriter, "streams", (".csv",), raising=False)
    monkeypatch.setattr(ToyWriter, "stream", stream, raising=False)
    assert cli.main(["sample", str(run), "--out", str(tmp_path / "all.csv"), *FLAGS]) == 0
    samples.save(tmp_path / "ours.csv")
    assert (tmp_path / "all.csv").read_text() == (tmp_path / "ours.csv").read_text()


def test_samples_of_python_are_not_mixed_with_others(run, tmp_path):
    samples = dc.load(run).sample(12, steps=2)
    samples.save(tmp_path / "out")
    samples.save(tmp_path / "out")
    with pytest.raises(dc.UserError, match=r"contains other samples, such as 0010-inner\.csv"):
        samples.first(10).save(tmp_path / "out")
    assert dc.load(run).sample_to(tmp_path / "new", 12, steps=2).earlier == 0
    assert files_of(tmp_path / "new") == files_of(tmp_path / "out")


class Zero(nn.Module):
    width = 4

    def forward(self, x, conditioning, mask=None):
        return 0 * x


class PixelCodec:
    space = Euclidean((3, 128, 128))
    conditions = ()
    sizes = None

    def decode(self, state, mask=None):
        return state


class NullWriter(ToyWriter):
    def each(self, samples, folder, names, captions=()):
        for name in names:
            (folder / f"{name}.csv").write_bytes(b"x")
        return [folder / f"{name}.csv" for name in names]

    def together(self, samples, path, columns, captions=()):
        path.write_bytes(b"x")


def test_memory_is_bounded_by_the_batch(run, tmp_path, monkeypatch):
    """500 samples of 128 x 128 x 3 have 98 MB."""
    monkeypatch.setattr("diffcore.runs.output.MOST_KEPT", 20)
    checkpoint = next((run / "checkpoints").iterdir())
    modality = replace(TOY, writer=NullWriter)
    network = Denoiser(Zero(), (), "v")
    model = Model(modality, PixelCodec(), network, Cosine(), torch.device("cpu"), DENOISE)
    drawing = Drawing(model, checkpoint, SamplingConfig(ddim(), steps=1, batch_size=10), {}, 500)
    used = usage_of(lambda: write_samples(drawing, tmp_path / "out").n)
    assert used.returned == 500
    assert used.memory < 60e6
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["complete"] == 500
