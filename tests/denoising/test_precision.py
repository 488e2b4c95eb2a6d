"""bfloat16 inside the network alone, and networks that torch.compile has translated."""

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from diffcore import cli
from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.precision import compute_in
from diffcore.nn.dit import DiT
from diffcore.nn.unet import UNet
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, find_checkpoint, read_tensors
from diffcore.runs.composing import compose
from diffcore.runs.folder import RunFolder, read_json, read_log
from diffcore.runs.model import build_data, build_model
from diffcore.states.level import Level
from diffcore.tasks.objective import step_loss
from tests.support.refusals import refused
from tests.support.several import registry
from tests.support.toy import put_in_place

REGISTRY = registry()
LEVEL = Level(math.sqrt(0.5), math.sqrt(0.5))
COARSE = 2.0**-8
"""The relative precision of bfloat16, which has 8 bits."""


def with_weights(backbone):
    """Layers that are zero at first are not."""
    torch.manual_seed(0)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.1)
    return Denoiser(backbone, ()).requires_grad_(False)


@pytest.mark.parametrize(
    "backbone",
    [UNet(1, 8, patch=2, attention=True), UNet(1, 8, patch=2, learned_variance=True), DiT(1, (8, 8), 2, 24, 2, 2)],
    ids=["unet", "variance", "dit"],
)
def test_bfloat16_is_used_inside_and_only_there(backbone):
    network = with_weights(backbone)
    seen = set()
    for module in backbone.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    x = torch.randn(4, 1, 8, 8)
    exact = network(x, LEVEL)
    assert seen == {torch.float32}
    seen.clear()
    coarse = compute_in(network, "bfloat16")(x, LEVEL)
    assert seen == {torch.bfloat16}
    assert coarse.output.dtype == coarse.x0.dtype == torch.float32
    if exact.variance is not None:
        assert coarse.variance.dtype == torch.float32
    error = (coarse.output - exact.output).norm() / exact.output.norm()
    assert 0.01 * COARSE < error < 8 * COARSE
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_a_state_of_fields_comes_back_in_its_type():
    settings = compose(REGISTRY, "toy")
    model = build_model(settings, build_data(settings, REGISTRY).facts, REGISTRY)
    x = TensorDict({"place": torch.randn(3, 2), "radius": torch.randn(3, 1)}, batch_size=[3])
    output = compute_in(model.denoiser, "bfloat16")(x, LEVEL).output
    assert {field.dtype for field in output.values()} == {torch.float32}


@pytest.mark.parametrize("denoiser", ["unet", "dit"])
def test_gradients_are_those_of_float32_but_for_its_rounding(denoiser):
    settings = compose(REGISTRY, "bars", chosen={"denoiser": denoiser}, file={"train": {"batch_size": 32}})
    data = build_data(settings, REGISTRY)
    found = {}
    for precision in ("float32", "bfloat16"):
        model = build_model(settings, data.facts, REGISTRY)
        with_weights(model.network.backbone)
        compute_in(model.network.requires_grad_(True), precision)
        loss = step_loss(model, settings, data, 3)
        assert loss.dtype == torch.float32
        loss.backward()
        assert {parameter.grad.dtype for parameter in model.network.parameters()} == {torch.float32}
        found[precision] = torch.cat([parameter.grad.flatten() for parameter in model.network.parameters()])
    exact, coarse = found["float32"], found["bfloat16"]
    assert nn.functional.cosine_similarity(exact, coarse, dim=0) > 0.999
    assert not torch.equal(exact, coarse)


# Runs


SHORT = ["--train.steps", "6", "--train.log-every", "1", "--train.evaluate", "0", "--train.warmup-steps", "2"]


def run_of(path, *more):
    assert cli.main(["train", "--modality", "bars", *SHORT, "--out", str(path), *more]) == 0
    return path


def losses(path):
    return [row["loss"] for row in read_log(RunFolder(path))]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, REGISTRY)
        yield run_of(tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    put_in_place(monkeypatch, REGISTRY)


def test_a_run_in_bfloat16_keeps_its_weights_in_float32(plain, tmp_path):
    run = run_of(tmp_path / "run", "--train.precision", "bfloat16")
    assert losses(run) == pytest.approx(losses(plain), rel=0.02)
    assert losses(run) != losses(plain)
    for file in (MODEL, EMA, TRAINING):
        kept = read_tensors(find_checkpoint(RunFolder(run)), file)
        weights = [tensor for name, tensor in kept.items() if file != TRAINING or "/" in name]  # and their moments
        assert {tensor.dtype for tensor in weights} == {torch.float32}
    assert read_json(RunFolder(run).config)["settings"]["train"]["precision"] == "bfloat16"


def test_samples_are_drawn_in_float32_unless_asked_otherwise(plain, tmp_path):
    drawn = {}
    for name, more in {
        "plain": [],
        "float32": ["--precision", "float32"],
        "bfloat16": ["--precision", "bfloat16"],
    }.items():
        out = tmp_path / f"{name}.csv"
        assert cli.main(["sample", str(plain), "--n", "4", "--out", str(out), *more]) == 0
        drawn[name] = torch.tensor([[float(word) for word in row.split(",")] for row in out.read_text().splitlines()])
    assert torch.equal(drawn["plain"], drawn["float32"])
    apart = (drawn["bfloat16"] - drawn["plain"]).abs().max().item()
    assert 0 < apart < 0.1


def test_compiled_runs_and_others_go_on_with_each_other(plain, tmp_path, monkeypatch):
    """The backend translates nothing here, but all else is as it is with one that does."""
    compile_module = nn.Module.compile
    compiled = []

    def eager(module):
        compiled.append(type(module).__name__)
        compile_module(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", eager)
    run = run_of(tmp_path / "run", "--train.compile", "--train.steps", "3")
    assert compiled == ["UNet"]
    names = [read_tensors(find_checkpoint(RunFolder(path)), MODEL).keys() for path in (plain, run)]
    assert names[0] == names[1]
    settings = RunFolder(run).config
    settings.write_text(settings.read_text().replace('"compile": true', '"compile": false'))
    assert cli.main(["resume", str(run), "--train.steps", "6"]) == 0
    assert losses(run) == pytest.approx(losses(plain), rel=1e-5)
    assert compiled == ["UNet"]


def test_without_a_compiler_there_is_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    line = refused(capsys, "train", "--modality", "toy", *SHORT, "--train.compile", "--out", tmp_path / "run")
    assert "torch.compile does not work here (" in line
    assert line.endswith("leave out --train.compile, or --compile")
