"""The commands as a user types them, on the embedded digits."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from diffcore.cli import main
from tests.support.refusals import refused
from tests.support.toy_process import end, start

TINY = [
    "--denoiser.width", "8", "--train.steps", "30", "--train.batch-size", "16", "--train.log-every", "5",
    "--train.sample-every", "20", "--train.checkpoint-every", "10", "--train.evaluate", "20", "--sample.steps", "3",
]  # fmt: skip


def diffcore(*arguments, **keywords):
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "diffcore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **keywords)


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "digits", "--modality", "image", *TINY)


def test_a_run_folder_holds_what_it_should(run):
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
        "config.json", "data.json", "train_log.jsonl", "samples", "checkpoints", "metrics.json", "report.html",
        "evaluations.json", "end.json",
    }  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert config["plugins"]["diffcore-image"] == "0.1.0"
    assert config["settings"]["denoiser"]["width"] == 8
    rows = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    assert sorted(path.name for path in (run / "samples").glob("*.png")) == ["step-00000020.png", "step-00000030.png"]
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000020", "step-00000030"]


def test_the_report_needs_no_network(run):
    page = (run / "report.html").read_text()
    assert not re.search(r"https?://|src=\"(?!data:)|<script|@import|<link", page)
    for part in ("Metrics", "Samples", "From noise to data", "<svg", "class_agreement", "frechet_ratio", "[denoiser]"):
        assert part in page
    assert page.count("data:image/png;base64,") == 3  # samples, the nearest training examples, and trajectories


def test_samples_are_files_of_the_data_s_size_with_a_grid_apart(run, tmp_path):
    out = tmp_path / "out"
    assert main(["sample", str(run), "--n", "4", "--label", "3", "--steps", "3", "--out", str(out)]) == 0
    names = [*(f"000{i}-3.png" for i in range(4)), "overview", "recipe.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert Image.open(out / "0000-3.png").size == (8, 8)
    assert (
        main(["sample", str(run), "--n", "4", "--condition", "label=3", "--steps", "3", "--out", str(tmp_path / "b")])
        == 0
    )
    for name in ("0002-3.png", "overview/grid.png"):
        assert (out / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert main(["sample", str(run), "--n", "2", "--steps", "3", "--out", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").is_file()


def test_a_sample_depends_on_its_seed_and_number_alone(run, tmp_path):
    def pictures(n, *flags):
        out = tmp_path / f"{n}{''.join(flags)}"
        assert main(["sample", str(run), "--n", str(n), "--label", "1", "--out", str(out), *flags]) == 0
        return [numpy.asarray(Image.open(path)).astype(int) for path in sorted(out.glob("0*.png"))]

    many, few = pictures(6), pictures(3, "--batch-size", "1")
    assert all(abs(a - b).max() <= 1 for a, b in zip(many, few, strict=False))
    assert abs(many[0] - pictures(1, "--seed", "1")[0]).max() > 10


def test_solver_options_belong_to_the_solver(run, tmp_path, capsys):
    base = ["sample", str(run), "--n", "2", "--steps", "4"]
    assert main([*base, "--solver", "ddim", "--solver.eta", "0.5", "--out", str(tmp_path / "a")]) == 0
    assert main([*base, "--solver=ddpm", "--guidance", "2", "--grid", "time", "--out", str(tmp_path / "b")]) == 0
    other = ["--schedule", "exploding", "--schedule.sigma-max", "80"]
    assert main([*base, *other, "--out", str(tmp_path / "c")]) == 0
    assert "unknown schedule 'square'" in refused(capsys, *base, "--schedule", "square")
    assert "sigma_min and sigma_max" in refused(capsys, *base, "--schedule", "exploding", "--schedule.sigma-min", "200")
    assert "--solver.eta" in refused(capsys, *base, "--solver", "ddpm", "--solver.eta", "0.5")
    assert "--solver.eta: input should be less than or equal to 1" in refused(
        capsys, *base, "--solver", "ddim", "--solver.eta", "1.5"
    )
    assert "unknown solver 'rk4'; there are: adams, dpmpp-2m, " in refused(capsys, *base, "--solver", "rk4")


def test_evaluate_prints_json(run, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(run), "--n", "20", "--steps", "3", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert {"class_agreement", "frechet_distance", "frechet_distance_real", "frechet_ratio"} <= metrics.keys()
    assert metrics["samples"] == 20


def test_config_of_a_run_and_of_a_plan(run, capsys, tmp_path):
    capsys.readouterr()
    assert main(["config", str(run)]) == 0
    text = capsys.readouterr().out
    assert tomllib.loads(text)["denoiser"] == {
        "name": "unet", "width": 8, "multipliers": [1, 2], "patch": 1, "blocks": 1, "attention": False, "dropout": 0.0,
        "learned_variance": False, "octaves": 0,
    }  # fmt: skip
    (tmp_path / "run.toml").write_text(text)
    assert main(["config", "--modality", "image", "--config", str(tmp_path / "run.toml")]) == 0
    assert capsys.readouterr().out == text
    assert main(["config", "--modality", "image", "--data", "mnist"]) == 0
    assert 'preset = "mnist"' in capsys.readouterr().out


def test_an_existing_folder_is_never_overwritten(run, capsys, tmp_path):
    before = (run / "config.json").read_bytes()
    assert "exists already" in refused(capsys, "train", "--modality", "image", "--out", run, *TINY)
    assert (run / "config.json").read_bytes() == before
    file = tmp_path / "file"
    file.write_text("mine")
    assert "exists already" in refused(capsys, "train", "--modality", "image", "--out", file, *TINY)
    assert "part of this path is a file" in refused(capsys, "train", "--modality", "image", "--out", file / "x", *TINY)


def test_runs_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["train", "--modality", "image", *TINY, "--train.steps", "2", "--train.evaluate", "0"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs" / "image").iterdir()) == ["default-1", "default-2"]


def test_resume_continues_exactly(run, tmp_path):
    short = tmp_path / "short"
    tiny = [*TINY, "--train.evaluate", "0"]
    assert main(["train", "--modality", "image", "--out", str(short), *tiny, "--train.steps", "17"]) == 0
    assert main(["resume", str(short), "--train.steps", "30"]) == 0
    losses = [[json.loads(line)["loss"] for line in (path / "train_log.jsonl").open()] for path in (run, short)]
    assert losses[0] == losses[1]
    for name in ("model", "ema", "training"):
        file = f"checkpoints/step-00000030/{name}.safetensors"
        assert (run / file).read_bytes() == (short / file).read_bytes()


def test_resume_of_a_finished_run_says_how_to_go_further(run, capsys):
    assert "is trained already, 30 steps in" in refused(capsys, "resume", run)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_resume(tmp_path):
    out, said = tmp_path / "run", tmp_path / "said"
    command = ["train", "--modality", "image", "--out", out, "--train.steps", 100000, "--train.log-every", 2]
    process = start(*command, "--denoiser.width", 8, "--train.evaluate", 0, said=said)
    try:
        while not (out / "train_log.jsonl").exists():
            assert os.waitpid(process, os.WNOHANG) == (0, 0), said.read_text()
            time.sleep(0.1)
        os.kill(process, signal.SIGINT)
        assert end(process) == 130
    except BaseException:
        os.kill(process, signal.SIGKILL)
        raise
    assert f"diffcore resume {out}" in said.read_text()
    assert "Traceback" not in said.read_text()
    (checkpoint,) = (out / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert main(["resume", str(out), "--train.steps", str(step + 3)]) == 0


def test_mistakes_get_a_line(run, capsys, tmp_path):
    train = ("train", "--modality", "image", "--out", tmp_path / "new")
    unknown = refused(capsys, "train", "--modality", "smells")
    assert re.search("unknown modality 'smells'; installed: .*image", unknown)
    assert "unknown data set 'imagenet'; there are: digits, mnist" in refused(capsys, *train, "--data", "imagenet")
    assert "MNIST needs --data.root" in refused(capsys, *train, "--data", "mnist")
    assert "perhaps you meant train" in refused(capsys, "trian")
    assert "--train.steps" in refused(capsys, *train, "--train.steps", "soon")
    assert "smaller than the network can take" in refused(capsys, *train, "--denoiser.patch", "16")
    assert "unknown label '12'; this model knows: 0, 1, 2" in refused(capsys, "sample", run, "--label", "12")
    assert "unknown condition 'colour'; this model takes: label" in refused(
        capsys, "sample", run, "--condition", "colour=red"
    )
    assert "write it as key=value" in refused(capsys, "sample", run, "--condition", "label")
    assert "image writes .png" in refused(capsys, "sample", run, "--out", tmp_path / "all.sdf")
    assert "no run folder" in refused(capsys, "sample", tmp_path / "nowhere")
    assert "is not a run folder" in refused(capsys, "evaluate", tmp_path)
    assert "has no checkpoint 'step-9'" in refused(capsys, "sample", run, "--checkpoint", "step-9")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there(run, capsys, tmp_path):
    for command in (["train", "--modality", "image", "--out", tmp_path / "new"], ["sample", run], ["resume", run]):
        extra = ["--train.steps", "40"] if command[0] == "resume" else []
        assert "finds no CUDA device here" in refused(capsys, *command, "--device", "cuda", *extra)


def test_damaged_runs_get_a_line(run, capsys, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    weights = broken / "checkpoints" / "step-00000030" / "ema.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:500])
    said = refused(capsys, "sample", broken, "--checkpoint", "step-00000030")
    assert "ema.safetensors is damaged: 500 bytes" in said
    assert "try --checkpoint step-00000020" in said
    assert main(["sample", str(broken), "--n", "1", "--steps", "2", "--checkpoint", "step-00000020"]) == 0
    assert main(["sample", str(broken), "--n", "1", "--steps", "2"]) == 0
    said = capsys.readouterr().err
    assert "step-00000030 is skipped" in said
    assert "ema.safetensors is damaged: 500 bytes" in said
    weights.write_bytes(whole)
    config = json.loads((broken / "config.json").read_text())
    config["settings"]["denoiser"]["width"] = 16
    (broken / "config.json").write_text(json.dumps(config))
    assert "does not fit the network of config.json" in refused(capsys, "sample", broken)
    config["settings"]["denoiser"]["width"] = "wide"
    (broken / "config.json").write_text(json.dumps(config))
    assert "denoiser.width: input should be a valid integer" in refused(capsys, "sample", broken)
    (broken / "config.json").write_text("{")
    assert "cannot be read as JSON" in refused(capsys, "sample", broken)


def test_a_full_disk_gets_a_line_and_leaves_the_checkpoint_before(capsys, tmp_path, monkeypatch):
    plain = os.fsync

    def fills_up(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.parent.name == ".step-00000020.part" and path.name.startswith(".training"):
            raise OSError(28, "No space left on device")
        plain(descriptor)

    monkeypatch.setattr("os.fsync", fills_up)
    out = tmp_path / "run"
    said = refused(capsys, "train", "--modality", "image", "--out", out, *TINY)
    assert "training.safetensors: No space left on device. Free some space" in said
    monkeypatch.undo()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000010"]
    assert main(["sample", str(out), "--n", "1", "--steps", "2"]) == 0


def test_a_folder_of_one_s_own_trains(picture_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("diffcore.evaluation.classifier._STEPS", 10)  # no metric is looked at
    (picture_folder / "left" / "broken.png").write_bytes(b"x")
    out = tmp_path / "run"
    flags = ["--data", "folder", "--data.root", str(picture_folder), "--data.size", "16", "--denoiser.patch", "4"]
    command = ["train", "--modality", "image", "--out", str(out), *flags, *TINY]
    assert "left/broken.png" in refused(capsys, *command)
    assert main([*command, "--data.skip-unreadable"]) == 0
    assert "1 (left/broken.png)" in capsys.readouterr().err
    assert main(["sample", str(out), "--n", "2", "--label", "right", "--steps", "2", "--out", str(tmp_path / "s")]) == 0
    assert Image.open(tmp_path / "s" / "0001-right.png").size == (16, 16)


def test_every_command_has_help(capsys):
    def shown(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--help"])
        assert not caught.value.code
        return capsys.readouterr().out

    process = diffcore("--help")
    assert process.returncode == 0
    assert "diffcore COMMAND" in process.stdout
    for command in ("sample", "tune", "evaluate", "resume"):
        assert "--checkpoint" in shown(command)
    assert "--train.steps" in shown("train", "--modality", "image")
    assert "--modality" in shown("train")
