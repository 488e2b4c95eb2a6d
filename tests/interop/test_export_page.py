"""The sampler of docs/export.md, as it is written there, beside the library's own."""

import numpy
import pytest
import torch

import diffcore
from diffcore.cli import main
from diffcore.interop.weights import run_of_weights
from diffcore.plugins import registry
from diffcore.runs.composing import compose
from diffcore.runs.model import build_model
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import ddim
from diffcore.sampling.timesteps import grid
from tests.docs.pages import ROOT, blocks

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FACTS = {
    **{"channels": 1, "height": 8, "width": 8, "mean": (0.3,), "std": (0.38,)},
    "classes": tuple("0123456789"),
}


def test_the_sampler_of_the_page_draws_what_diffcore_draws(tmp_path, monkeypatch):
    """The default network of digits, with random weights; the same noise, and DDIM along the same levels."""
    installed = registry.installed()
    network = build_model(compose(installed, "image"), installed.modality("image").facts(**FACTS), installed).network
    torch.manual_seed(0)
    weights = {name: t if t.any() else 0.03 * torch.randn_like(t) for name, t in network.state_dict().items()}
    run = diffcore.load(run_of_weights(tmp_path / "digits", "image", {}, FACTS, weights, installed, "test"))
    monkeypatch.chdir(tmp_path)
    assert main(["export", "digits", "--format", "onnx", "--out", "digits.onnx"]) == 0
    (code,) = [block.content for block in blocks(ROOT / "docs/export.md") if block.language == "python"]
    page = {}
    exec(code, page)

    model, n = run.model, 10
    levels = levels_of(model.schedule, grid(run.settings.sample.grid, model.schedule, run.settings.sample.steps))
    noise = torch.from_numpy(numpy.random.default_rng(0).standard_normal((n, 1, 8, 8))).float()
    conditions = {"label": torch.arange(n)}
    start = levels[0].sigma * noise
    expected = sample(
        model.denoiser, model.codec.space, ddim(), levels, indices=range(n), conditions=conditions, start=start
    )
    assert expected.std() > 0.3
    numpy.testing.assert_allclose(page["states"], expected.numpy(), rtol=0, atol=1e-4)
    decoded = model.codec.decode(expected).numpy().astype(int)
    assert abs(page["pixels"].astype(int) - decoded).max() <= 1
