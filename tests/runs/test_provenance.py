"""config.json holds the distribution and version of every part that took part in a run."""

import json
from dataclasses import replace

import pytest

from diffcore import cli
from diffcore.plugins.records import Component, NoOptions
from diffcore.plugins.registry import Provided
from diffcore.runs.composing import compose
from diffcore.runs.folder import parts_of
from tests.support.toy import TOY, put_in_place, toy_registry


class Quiet:
    def row(self, row):
        pass

    def picture(self, step, path):
        pass

    def metrics(self, step, metrics):
        pass

    def close(self):
        pass


def test_each_part_is_recorded_with_its_distribution_and_version(tmp_path, monkeypatch):
    registry = toy_registry()
    mlp = replace(TOY.denoisers[0], name="own-mlp")
    solver = replace(registry.solver("ddim"), name="own-ddim")
    metric = Component("own-metric", "none", lambda options, codec, data: lambda samples, conditions: [])
    logger = Component("own-logger", "none", lambda options, folder, settings: Quiet(), NoOptions)
    registry.denoisers["own-mlp"] = Provided(mlp, "dist-networks", "2.0")
    registry.solvers["own-ddim"] = Provided(solver, "dist-solvers", "3.1")
    registry.metrics["own-metric"] = Provided(metric, "dist-metrics", "4.0")
    registry.loggers["own-logger"] = Provided(logger, "dist-loggers", "5.0")
    put_in_place(monkeypatch, registry)
    flags = ["--denoiser", "own-mlp", "--sample.solver", "own-ddim", "--metric", "own-metric", "--logger", "own-logger"]
    short = ["--train.steps", "2", "--train.evaluate", "0"]
    assert cli.main(["train", "--modality", "toy", "--out", str(tmp_path / "run"), *flags, *short]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    parts = {(part["kind"], part["name"]): (part["distribution"], part["version"]) for part in config["parts"]}
    core = registry.schedules["cosine"]
    assert parts == {
        ("modalities", "toy"): ("diffcore-toy", "1.0"),
        ("tasks", "denoise"): (core.distribution, core.version),
        ("datasets", "rings"): ("diffcore-toy", "1.0"),
        ("denoisers", "own-mlp"): ("dist-networks", "2.0"),
        ("schedules", "cosine"): (core.distribution, core.version),
        ("solvers", "own-ddim"): ("dist-solvers", "3.1"),
        ("metrics", "own-metric"): ("dist-metrics", "4.0"),
        ("loggers", "own-logger"): ("dist-loggers", "5.0"),
    }
    assert config["plugins"]["dist-solvers"] == "3.1"


def test_a_network_of_the_task_itself_is_provided_with_the_task():
    registry = toy_registry()
    own = replace(TOY.denoisers[0], name="own-mlp")
    task = replace(registry.task("denoise"), name="mine", networks=(own,))
    registry.tasks["mine"] = Provided(task, "dist-tasks", "6.0")
    settings = compose(registry, "toy", chosen={"task": "mine", "denoiser": "own-mlp"})
    parts = {(part["kind"], part["name"]): part["distribution"] for part in parts_of(settings, registry)}
    assert parts["tasks", "mine"] == parts["denoisers", "own-mlp"] == "dist-tasks"


@pytest.mark.parametrize("task", ["classify"])
def test_a_classifier_is_one_of_the_parts(tmp_path, monkeypatch, task):
    put_in_place(monkeypatch, toy_registry())
    flags = ["--task", task, "--train.steps", "2", "--train.evaluate", "0"]
    assert cli.main(["train", "--modality", "toy", "--out", str(tmp_path / "run"), *flags]) == 0
    kinds = [part["kind"] for part in json.loads((tmp_path / "run" / "config.json").read_text())["parts"]]
    assert kinds == ["modalities", "tasks", "datasets", "classifiers", "schedules", "solvers"]
