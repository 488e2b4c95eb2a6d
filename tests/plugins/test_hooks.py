"""What a stranger's plugin adds beside kinds of data, through the commands that users type."""

import json
import re

import pytest
import torch
from pydantic import Field

from diffcore.cli import main
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.output import Metric
from diffcore.plugins.records import Command, Component, Settings
from diffcore.plugins.registry import Provided, chosen, load
from tests.plugins.test_registry import Plugin, module
from tests.support.toy import TOY, points, put_in_place


class PullOptions(Settings):
    to: float = Field(0.0, description="Where every coordinate is pulled.")
    strength: float = Field(1.0, ge=0, le=1, description="1: all the way.")


class ScaledSteps(Settings):
    scale: float = Field(1.0, gt=0)


class Far(Settings):
    beyond: float = 1.0


def pull(options, codec):
    """x0 moved towards a point: at strength 1 every sample ends there."""
    from diffcore.denoising.denoiser import from_x0
    from diffcore.states.state import map_fields

    def guide(denoise):
        def guided(x, level, conditions=None, mask=None):
            found = denoise(x, level, conditions, mask)
            return from_x0(map_fields(lambda f: f + options.strength * (options.to - f), found.x0), x, level)

        return guided

    return guide


def scaled_euler(options):
    from diffcore.sampling.solvers import ddim

    plain = ddim()

    def step(evaluate, x, move):
        return options.scale * plain(evaluate, x, move)

    return step


def far(options, codec, data):
    def metrics(samples, conditions):
        share = (samples.norm(dim=1) > options.beyond).double().mean().item()
        return [Metric("far", share, f"share beyond {options.beyond:g}, of {len(data.examples)} examples' kind")]

    return metrics


class Notes:
    """A logger that writes what it is told, a line each."""

    def __init__(self, path):
        self.path = path

    def say(self, *words):
        with self.path.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def row(self, row):
        self.say("row", row["step"], f"{row['loss']:.6f}")

    def picture(self, step, path):
        self.say("picture", step, path.name)

    def metrics(self, step, metrics):
        self.say("metrics", step, *(metric.name for metric in metrics))

    def close(self):
        self.say("close")


class Broken(Notes):
    def row(self, row):
        raise RuntimeError("the disk is on fire")


def stranger(heard):
    def hooks(kind, *records):
        @hookimpl
        def offer():
            return records

        return {f"diffcore_{kind}": offer}

    @hookimpl
    def diffcore_run_started(run, settings, step):
        heard.append(("started", run.name, settings["modality"], step))

    @hookimpl
    def diffcore_run_logged(row):
        heard.append(("logged", row["step"]))

    @hookimpl
    def diffcore_run_sampled(step, path):
        heard.append(("sampled", step, path.exists()))

    @hookimpl
    def diffcore_run_saved(step, path):
        heard.append(("saved", step, (path / "ema.safetensors").exists()))

    @hookimpl
    def diffcore_run_ended(step, error):
        heard.append(("ended", step, type(error).__name__))

    few = frozenset({"toy"})
    return module(
        diffcore_run_started=diffcore_run_started,
        diffcore_run_logged=diffcore_run_logged,
        diffcore_run_sampled=diffcore_run_sampled,
        diffcore_run_saved=diffcore_run_saved,
        diffcore_run_ended=diffcore_run_ended,
        **hooks("modalities", TOY),
        **hooks(
            "datasets",
            Component("more", "the same once more", points, TOY.datasets[0].options, modalities=few),
            Component("others", "of another kind", points, TOY.datasets[0].options, modalities=frozenset({"smells"})),
            Component("rings", "a name that is taken", points, TOY.datasets[0].options, modalities=few),
        ),
        **hooks(
            "denoisers",
            Component("wider", "a wider MLP", TOY.denoisers[0].build, TOY.denoisers[0].options, modalities=few),
        ),
        **hooks("solvers", Component("scaled", "DDIM, scaled", scaled_euler, ScaledSteps)),
        **hooks("guidance", Component("pull", "towards a point", pull, PullOptions)),
        **hooks("metrics", Component("far", "how many are far out", far, Far)),
        **hooks(
            "loggers",
            Component("notes", "a text file", lambda o, folder, settings: Notes(folder / "notes.txt")),
            Component("broken", "never works", lambda o, folder, settings: Broken(folder / "broken.txt")),
            Component("absent", "needs much", lambda o, folder, settings: None, requires=("surely_not_installed",)),
        ),
        **hooks("commands", Command("smell", "sniff at arguments", lambda arguments: print("sniff", *arguments) or 0)),
    )


@pytest.fixture
def heard():
    return []


@pytest.fixture
def registry(heard, monkeypatch):
    found = load([Plugin("stranger", stranger(heard))])
    put_in_place(monkeypatch, found)
    return found


def train(path, *flags):
    return main(["train", "--modality", "toy", "--train.steps", "20", "--out", str(path), *flags])


def test_a_name_that_is_taken_is_listed_with_who_has_it(registry):
    (failure,) = registry.failures
    assert failure.plugin == "datasets: rings"
    assert failure.reason == "the name 'rings' is taken by dist-stranger, for toy"


def test_what_happens_in_a_run_is_told(registry, heard, tmp_path):
    flags = (
        "--data",
        "more",
        "--denoiser",
        "wider",
        "--logger",
        "notes",
        "--metric",
        "far",
        "--metric.far.beyond",
        "0",
    )
    assert train(tmp_path / "run", *flags, "--train.checkpoint_every", "15") == 0
    assert heard == [
        ("started", "run", "toy", 0),
        ("logged", 10),
        ("saved", 15, True),
        ("logged", 20),
        ("saved", 20, True),
        ("sampled", 20, True),
        ("ended", 20, "NoneType"),
    ]
    lines = (tmp_path / "run" / "notes.txt").read_text().splitlines()
    rows = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert lines[:2] == [f"row {row['step']} {row['loss']:.6f}" for row in rows]
    assert lines[2] == "picture 20 step-00000020.csv"
    assert lines[3].startswith("metrics 20 radius_error far samples")
    assert lines[4:] == ["close"]
    metrics = {metric["name"]: metric for metric in json.loads((tmp_path / "run" / "metrics.json").read_text())}
    assert metrics["far"]["value"] == 1.0
    assert metrics["far"]["meaning"] == "share beyond 0, of 200 examples' kind"

    heard.clear()
    assert main(["resume", str(tmp_path / "run"), "--train.steps", "30"]) == 0
    assert heard[0] == ("started", "run", "toy", 20)
    assert heard[-1] == ("ended", 30, "NoneType")
    assert (tmp_path / "run" / "notes.txt").read_text().splitlines()[5].startswith("row 30 ")


def test_one_that_fails_is_said_once_and_stops_nobody(registry, heard, tmp_path, capsys):
    @hookimpl
    def diffcore_run_logged(row):
        heard.append("failed")
        raise RuntimeError("no ears")

    registry.plugins.register(module(diffcore_run_logged=diffcore_run_logged), "deaf")
    assert train(tmp_path / "run", "--logger", "broken", "--logger", "notes") == 0
    said = capsys.readouterr().err
    assert said.count("the logger broken failed and receives no more events: the disk is on fire") == 1
    assert said.count("the plugin deaf failed and receives no more events: no ears") == 1
    assert heard.count("failed") == 1
    assert ("logged", 20) in heard
    assert not (tmp_path / "run" / "broken.txt").exists()
    assert "row 20" in (tmp_path / "run" / "notes.txt").read_text()


def test_a_logger_that_cannot_begin_is_left_out(registry, tmp_path, capsys):
    def build(options, folder, settings):
        raise RuntimeError("no key\nand much more")

    registry.loggers["shut"] = Provided(Component("shut", "never opens", build), "dist", "1")
    assert train(tmp_path / "run", "--logger", "shut", "--logger", "notes") == 0
    assert "the logger shut failed to start and is left out: no key\n" in capsys.readouterr().err
    assert "row 20" in (tmp_path / "run" / "notes.txt").read_text()


def test_a_run_that_fails_says_so_to_those_who_listen(registry, heard, tmp_path, monkeypatch):
    nothing = torch.tensor(torch.nan, requires_grad=True)

    def forward(self, batch, by_field=False):
        return {"place": torch.nan, "radius": 0.0} if by_field else 1 * nothing

    monkeypatch.setattr("diffcore.tasks.objective.Objective.forward", forward)
    assert train(tmp_path / "run", "--logger", "notes") == 2
    assert heard[-1] == ("ended", 0, "UserError")
    assert (tmp_path / "run" / "notes.txt").read_text() == "close\n"


@pytest.fixture
def run(registry, tmp_path):
    assert train(tmp_path / "run", "--train.evaluate", "0", "--logger", "notes") == 0
    return tmp_path / "run"


def numbers(folder):
    files = sorted(folder.glob("*.csv"))
    return torch.tensor([[float(word) for word in path.read_text().split(",")] for path in files])


def test_a_strangers_solver_is_chosen_with_its_own_options(run, tmp_path):
    def drawn(name, *flags):
        assert main(["sample", str(run), "--n", "3", "--out", str(tmp_path / name), *flags]) == 0
        return numbers(tmp_path / name)

    plain = drawn("a", "--solver", "ddim", "--steps", "1")
    assert torch.allclose(drawn("b", "--solver", "scaled", "--steps", "1"), plain, atol=1e-4)
    twice = drawn("c", "--solver", "scaled", "--solver.scale", "2", "--steps", "1")
    assert torch.allclose(twice, 2 * plain, atol=3e-4)


def test_a_strangers_guidance_bends_every_sample(run, tmp_path):
    flags = ("--n", "4", "--guide", "pull", "--guide.to", "0.25", "--out", str(tmp_path / "drawn"))
    assert main(["sample", str(run), *flags]) == 0
    assert torch.allclose(numbers(tmp_path / "drawn"), torch.full((4, 2), 0.25), atol=1e-3)


def test_a_strangers_metric_is_evaluated_on_request(run, capsys):
    flags = ("--n", "20", "--metric", "far", "--metric.far.beyond", "1e6", "--json")
    assert main(["evaluate", str(run), *flags]) == 0
    assert json.loads(capsys.readouterr().out)["far"] == 0.0


def test_a_metric_that_fails_costs_its_own_figures_alone(run, registry, capsys):
    record = registry.metrics["far"].record

    def failing(options, codec, data):
        def metrics(samples, conditions):
            raise RuntimeError("no measure")

        return metrics

    registry.metrics["bad"] = Provided(Component("bad", "fails", failing), "dist", "1")
    assert main(["evaluate", str(run), "--n", "20", "--metric", "bad", "--metric", "far", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "the metric bad failed: RuntimeError: no measure" in err
    assert {"radius_error", "far"} <= json.loads(out).keys()
    assert record.name == "far"


def test_a_logger_that_is_gone_does_not_keep_a_run_from_being_read(run, registry, tmp_path, capsys):
    del registry.loggers["notes"]
    assert main(["sample", str(run), "--n", "2", "--out", str(tmp_path / "drawn")]) == 0
    assert "the logger 'notes' of this run is not installed and is left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--logger", "nots"),
            "unknown logger 'nots' (did you mean 'notes'?); there are: tensorboard, wandb, trackio, notes,",
        ),
        (("--logger", "absent"), "the logger 'absent' needs modules that are not installed: surely_not_installed"),
        (("--data", "others"), "unknown data set 'others'; there are: rings, again, more"),
        (("--metric", "far", "--metric.far.beyont", "1"), "--metric.far.beyont"),
        (("--metric.far.beyond", "1"), "--metric.far.beyond"),
    ],
)
def test_a_part_that_is_not_there_is_one_line(registry, tmp_path, capsys, flags, said):
    assert train(tmp_path / "run", *flags) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_several_parts_are_kept_in_files(registry, tmp_path, capsys):
    flags = ("--modality", "toy", "--metric", "far", "--metric.far.beyond", "3", "--logger", "notes")
    assert main(["config", *flags]) == 0
    written = capsys.readouterr().out
    assert "[metric.far]\nbeyond = 3.0" in written
    assert "[logger.notes]" in written
    (tmp_path / "run.toml").write_text(written)
    assert main(["config", "--config", str(tmp_path / "run.toml")]) == 0
    assert capsys.readouterr().out == written


def test_a_strangers_command_is_listed_and_run(registry, capsys):
    assert main(["smell", "of", "--toast"]) == 0
    assert capsys.readouterr().out == "sniff of --toast\n"
    assert main(["--help"]) == 0
    assert re.search(r"^  smell +sniff at arguments$", capsys.readouterr().out, re.MULTILINE)
    assert main(["smel"]) == 2
    assert "perhaps you meant smell" in capsys.readouterr().err


def test_everything_is_listed(registry, capsys):
    assert main(["plugins", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed["guidance"] if row["distribution"] != "diffcore"] == ["pull"]
    assert [row["missing"] for row in listed["loggers"] if row["name"] == "absent"] == [["surely_not_installed"]]
    assert main(["plugins"]) == 0
    assert "absent       needs much  (dist-stranger 1.2; needs surely_not_installed)" in capsys.readouterr().out


def test_plugins_are_chosen_by_name(capsys, monkeypatch):
    points = [Plugin("one", None), Plugin("two", None)]
    assert chosen(points, None) == points
    assert chosen(points, " two ,") == points[1:]
    assert chosen(points, "") == []
    monkeypatch.setenv("DIFFCORE_PLUGINS", "three")
    from diffcore.plugins.registry import installed

    installed.cache_clear()
    assert main(["plugins"]) == 2
    assert "DIFFCORE_PLUGINS names 'three', which is not installed; there are: " in capsys.readouterr().err


def test_without_plugins_the_core_is_there(capsys, monkeypatch):
    from diffcore.plugins.registry import installed

    monkeypatch.setenv("DIFFCORE_PLUGINS", "surely-not")  # what the flag replaces, and what is put back
    try:
        assert main(["--no-plugins", "plugins", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)
        assert listed["modalities"] == []
        assert "adams" in [row["name"] for row in listed["solvers"]]
    finally:
        monkeypatch.undo()
        installed.cache_clear()
