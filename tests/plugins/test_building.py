"""What builders return is checked where they are called, for every kind of part."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pytest
import torch
from tensordict import TensorDict
from torch import nn

from diffcore.cli import main
from diffcore.errors import UserError
from diffcore.plugins.building import PARTS, build, part_of
from diffcore.plugins.data import Data
from diffcore.plugins.output import Metric
from diffcore.plugins.records import Component, NoOptions
from diffcore.plugins.registry import Provided
from diffcore.process.schedules import Cosine
from tests.support.toy import TOY, ToyFacts, put_in_place, toy_registry

COMPONENTS = ("data", "denoiser", "classifier", "schedule", "solver", "guide", "metric", "logger", "task", "text")


def made(kind, part):
    return build(kind, Component("mine", "", lambda options: part), NoOptions())


def network(width):
    module = nn.Linear(2, 2)
    module.width = width
    return module


def examples(size):
    return TensorDict({"place": torch.zeros(4, 2)}, batch_size=size)


@pytest.mark.parametrize("kind", COMPONENTS)
def test_a_builder_that_forgets_return_is_named(kind):
    with pytest.raises(UserError, match=r"'mine' cannot be used: its builder must return .*None; was `return` forg"):
        made(kind, None)


@pytest.mark.parametrize("kind", [kind for kind in PARTS if kind not in COMPONENTS])
def test_a_function_of_a_modality_that_forgets_return_is_named(kind):
    modality = replace(TOY, **{kind: lambda *context: None})
    if kind == "evaluator":
        assert part_of(modality, kind) is None
        modality = replace(TOY, evaluator=lambda *context: 3)
    with pytest.raises(UserError, match=f"the {kind} of the modality 'toy' cannot be used"):
        part_of(modality, kind)


@pytest.mark.parametrize(
    ("kind", "part", "said"),
    [
        ("schedule", Cosine, "the class Cosine"),
        ("schedule", SimpleNamespace(log_snr=1, time=2), "a SimpleNamespace without level"),
        ("solver", "ddim", "a str"),
        ("denoiser", nn.Linear, "the class type"),
        ("denoiser", nn.Linear(2, 2), "a Linear whose `width` is None"),
        ("classifier", network(0.5), "a Linear whose `width` is 0.5"),
        ("data", examples([4]), "a TensorDict"),
        ("data", Data({}, examples([4])), "a Data whose facts are a dict"),
        ("data", Data(ToyFacts(), {"place": torch.zeros(4, 2)}), "a Data whose examples are a dict, not a TensorDict"),
        ("data", Data(ToyFacts(), examples([])), "examples are a TensorDict of batch size [], not"),
        ("data", Data(ToyFacts(), examples([4]), [1]), "held_out are a list"),
        ("logger", SimpleNamespace(row=1, metrics=2, close=3), "a SimpleNamespace without picture"),
        ("metric", [Metric("a", 1.0, "b")], "a list"),
    ],
)
def test_something_else_is_named(kind, part, said):
    with pytest.raises(UserError) as raised:
        made(kind, part)
    assert said.replace("the class type", "the class Linear") in str(raised.value)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (SimpleNamespace(each=1, together=2, html=3, endings=()), "`endings` are ()"),
        (SimpleNamespace(each=1, together=2, html=3, endings=("png",)), "`endings` are ('png',)"),
        (SimpleNamespace(each=1, together=2, endings=(".png",)), "without html"),
    ],
)
def test_a_writer_needs_endings_and_functions(part, said):
    with pytest.raises(UserError) as raised:
        part_of(replace(TOY, writer=lambda codec: part), "writer", None)
    assert said in str(raised.value)


def test_functions_of_metrics_and_guides_are_checked_when_they_are_called():
    assert made("guide", lambda denoise: denoise)(print) is print
    with pytest.raises(UserError, match="the guide 'mine' must return a denoiser when it is called, but returned None"):
        made("guide", lambda denoise: None)(print)
    right = [Metric("a", 1.0, "b")]
    assert made("metric", lambda samples, conditions: right)(1, {}) == right
    for wrong, said in ((None, "None"), ([1.0], "a list with a float in it"), ({}, "a dict")):
        with pytest.raises(UserError, match=f"the metric 'mine' must return a list of .* but returned {said}"):
            made("metric", lambda samples, conditions, wrong=wrong: wrong)(1, {})


def test_the_command_line_names_the_builder(monkeypatch, tmp_path, capsys):
    registry = toy_registry()
    registry.solvers["forgot"] = Provided(Component("forgot", "", lambda options: None), "diffcore-mine", "1")
    put_in_place(monkeypatch, registry)
    run = tmp_path / "run"
    assert main(["train", "--modality", "toy", "--train.steps", "2", "--train.evaluate", "0", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["sample", str(run), "--solver", "forgot", "--out", str(tmp_path / "drawn")]) == 2
    assert "the solver 'forgot' cannot be used: its builder must return" in capsys.readouterr().err


def test_an_evaluator_that_raises_costs_its_own_figures_alone(monkeypatch, tmp_path, capsys):
    def raising(codec, data, cache):
        def metrics(samples, conditions):
            raise KeyError("colour")

        return metrics

    for number, evaluator in enumerate((raising, lambda codec, data, cache: {}["colour"])):
        registry = toy_registry()
        registry.modalities["toy"] = Provided(replace(TOY, evaluator=evaluator), "diffcore-toy", "1")
        put_in_place(monkeypatch, registry)
        run = tmp_path / str(number)
        assert main(["train", "--modality", "toy", "--train.steps", "2", "--out", str(run)]) == 1  # figures are missing
        said = capsys.readouterr().err
        assert "KeyError: 'colour'" in said
        assert "samples_per_second" in (run / "metrics.json").read_text()
        assert (run / "report.html").exists()
        assert main(["evaluate", str(run), "--n", "4"]) == 1


def test_data_that_draw_from_global_generators_are_the_same_in_every_run():
    def drawn(options):
        numbers = [random.random(), numpy.random.rand(), torch.rand(()).item()]
        return Data(ToyFacts(), TensorDict({"x": torch.tensor([numbers])}, batch_size=[1]))

    found = []
    for seed in (1, 2):
        random.seed(seed), numpy.random.seed(seed), torch.manual_seed(seed)
        states = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        found.append(build("data", Component("mine", "", drawn), NoOptions()).examples["x"].tolist())
        assert states == (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert found[0] == found[1]
