"""Exported denoisers beside their runs, and what `diffcore export` refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffcore.cli import main
from diffcore.denoising.bert import bert_of
from diffcore.denoising.conditions import nulls
from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.minilm import MiniLM
from diffcore.denoising.text import TextCondition
from diffcore.errors import UserError
from diffcore.interop import onnx_format, torch_format
from diffcore.interop.checking import checked, differences
from diffcore.interop.decoder import decoder_function
from diffcore.interop.denoiser import denoiser_function
from diffcore.interop.function import argument_names
from diffcore.interop.program import of_one_size, program_of
from diffcore.interop.weights import run_of_weights
from diffcore.interop.writing import with_values, written
from diffcore.nn.dit import DiT
from diffcore.plugins import records, registry
from diffcore.runs.composing import compose
from diffcore.runs.model import build_model
from diffcore.states.level import Level
from tests.support.exported import loaded
from tests.support.minilm import VOCABULARY, tensors
from tests.support.refusals import refused

SETTINGS = {"denoiser": {"name": "dit", "patch": 4, "width": 16, "depth": 1, "heads": 2}, "data": {"name": "digits"}}
FACTS = {"channels": 1, "height": 8, "width": 8, "mean": (0.5,), "std": (0.25,), "classes": ("a", "b")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a small denoiser of pictures with two classes."""
    installed = registry.installed()
    facts = installed.modality("image").facts(**FACTS)
    network = build_model(compose(installed, "image", file=SETTINGS), facts, installed).network
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.1 * torch.randn(t.shape, generator=generator) for name, t in network.state_dict().items()}
    return run_of_weights(tmp_path_factory.mktemp("runs") / "run", "image", SETTINGS, FACTS, weights, installed, "test")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("programs") / "run.pt2"
    assert main(["export", str(run), "--format", "torch", "--out", str(out)]) == 0
    return out


# Every kind of denoiser beside its run


@pytest.mark.parametrize("name", ["image dit, words", "audio dit", "pointcloud joint", "molecule transformer"])
def test_the_program_computes_what_the_run_does(name):
    """tests/benchmarks/exports.py does the same for all denoisers; tracing is slow, and slower for sets of any size."""
    function = denoiser_function(*loaded(name))
    function, program = program_of(of_one_size(function) if function.elements else function)
    module = program.module()
    for batch in (1, 5):
        given = function.examples(batch, 0)
        assert batch == 1 or "mask" not in given or not given["mask"].all()
        found = module(**given)
        assert {*found} >= {*function.eager(given)}
        assert max(differences(function, given, found).values()) < 1e-5


@pytest.fixture(scope="module")
def atoms():
    """The program of a denoiser of sets with a mask and with numbers as conditions, in latents."""
    return program_of(denoiser_function(*loaded("molecule atoms, latent")))


def test_a_program_and_a_model_of_onnx_take_sets_of_any_size(atoms, tmp_path):
    """docs/export.md has the model of a network on pictures."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    function, program = atoms
    onnx_format.save(program, with_values(function), tmp_path / "model.onnx")
    call, module = onnx_format.opened(tmp_path / "model.onnx"), program.module()
    for batch, elements in ((1, function.elements + 2), (5, function.elements)):
        given = function.examples(batch, elements)
        assert batch == 1 or not given["mask"].all()
        assert max(differences(function, given, call(given)).values()) < 1e-5
        assert max(differences(function, given, module(**given)).values()) < 1e-5


def test_the_decoder_of_a_run_in_latents():
    run, facts = loaded("pointcloud tokens, latent")
    codec = run.model.codec
    codec.set_statistics({"": torch.full((4,), 0.5)}, {"": torch.full((4,), 2.0)})
    function, program = program_of(decoder_function(run, facts))
    for batch in (1, 5):
        given = function.examples(batch, 0)
        found = program.module()(**given)["state"]
        with torch.no_grad():
            expected = codec.autoencoder.decode(0.5 + 2 * given["x"])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_mask_hides_what_lies_at_absent_elements(atoms):
    function, program = atoms
    given = function.examples(4, 7)
    present = given["mask"]
    assert not present.all()
    other = {**given, "x": torch.where(present[..., None], given["x"], 100.0)}
    before, after = program.module()(**given)["x0"], program.module()(**other)["x0"]
    torch.testing.assert_close(after[present], before[present])
    assert (before[present] - program.module()(**{**given, "mask": torch.ones_like(present)})["x0"][present]).any()


def test_a_frozen_text_network_is_a_part_of_the_program():
    encoder = MiniLM("digest", 12, 8, VOCABULARY, bert_of(tensors(), 2))
    run, facts = loaded("image dit, words")
    run.model.codec.conditions = (TextCondition("prompt", encoder),)
    channels, *sides = run.model.codec.space.shape
    network = Denoiser(DiT(channels, tuple(sides), 4, 16, 1, 2, tokens=8), run.model.codec.conditions)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    network.eval().requires_grad_(False)
    run = run._replace(model=replace(run.model, network=network))
    function, program = program_of(denoiser_function(run, facts))
    given = function.examples(5, 0)
    found = program.module()(**given)
    assert max(differences(function, given, found).values()) < 1e-5
    other = {**given, "prompt": given["prompt"].clamp(max=6)}
    assert not program.module()(**other)["x0"].allclose(found["x0"])


# What the names and the values mean


def test_the_scale_and_the_log_snr_are_those_of_the_description(run, exported):
    """A state on another scale, x0 + s eps, is divided by sqrt(1 + s^2)."""
    model = registry_run(run).model
    x, s = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 1.0, 30.0])
    labels = torch.tensor([0, 1, 2])
    scaled = {"x": x / (1 + s**2).sqrt()[:, None, None, None], "log_snr": -2 * s.log(), "label": labels}
    with torch.no_grad():
        expected = model.denoiser(x, Level(torch.ones(3), s), {"label": labels})
    found = torch_format.opened(exported)(scaled)
    torch.testing.assert_close(found["x0"], expected.x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["eps"], expected.eps, rtol=1e-4, atol=1e-5)


def test_the_null_value_of_the_description_means_no_condition(run, exported):
    model, described = registry_run(run).model, torch_format.description_in(exported)
    assert described["conditions"]["label"] == {"kind": "class", "classes": ["a", "b"], "null": 2}
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    level = Level(torch.full((2,), 0.5**0.5), torch.full((2,), 0.5**0.5))
    call = torch_format.opened(exported)
    given = {"x": x, "log_snr": torch.zeros(2), "label": torch.tensor([2, 2])}
    with torch.no_grad():
        torch.testing.assert_close(call(given)["x0"], model.denoiser(x, level).x0, rtol=1e-5, atol=1e-5)
    assert not call({**given, "label": torch.tensor([0, 1])})["x0"].allclose(call(given)["x0"])


def test_null_values_of_numbers_and_texts():
    for name, kinds in (
        ("molecule joint", {}),
        ("molecule atoms, latent", {"logp": "nan"}),
        ("image dit, words", {"prompt": 0}),
    ):
        run, facts = loaded(name)
        described = denoiser_function(run, facts).description["conditions"]
        assert {key: described[key]["null"] for key in kinds} == kinds
        for key, value in nulls(run.model.codec.conditions, 1).items():
            assert (
                torch.equal(value.float(), torch.full_like(value.float(), float(described[key]["null"])))
                or value.isnan().all()
            )


def test_the_description_says_how_the_run_draws(run, exported):
    described, model = torch_format.description_in(exported), registry_run(run).model
    assert [value["name"] for value in described["inputs"]] == ["x", "log_snr", "label"]
    assert described["inputs"][0]["shape"] == described["outputs"][0]["shape"] == ["batch", 1, 8, 8]
    assert [value["name"] for value in described["outputs"]] == ["x0", "eps"]
    assert described["data"]["mean"] == [0.5]
    ends = model.schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert described["schedule"]["log_snr"] == ends.tolist()
    levels = described["sampling"]["log_snrs"]
    assert len(levels) == described["sampling"]["steps"] == 20
    assert levels == sorted(levels)
    assert levels[0] == ends[0].item()


def test_fields_with_levels_of_their_own_have_a_log_snr_each():
    function = denoiser_function(*loaded("audio joint"))
    names = [value.name for value in function.inputs]
    assert names == ["sound", "envelope", "log_snr_sound", "log_snr_envelope", "label"]
    given = function.examples(2, 0)
    louder = {**given, "log_snr_envelope": given["log_snr_envelope"] + 5}
    assert not function.module(**louder)["x0_sound"].allclose(function.module(**given)["x0_sound"])


def test_names_of_arguments():
    assert argument_names(["a", "a.b", "a b", "3", "class", "x"], {"x"}) == {
        **{"a": "a", "a.b": "a_b", "a b": "a_b_", "3": "_3", "class": "class_", "x": "x_"}
    }


# What is refused


def registry_run(run):
    from diffcore.runs.loading import load_run

    return load_run(run, registry.installed(), "cpu")


def test_a_file_that_is_there_is_not_overwritten(run, tmp_path, capsys):
    out = tmp_path / "kept.pt2"
    out.write_text("kept")
    assert "exists already" in refused(capsys, "export", run, "--format", "torch", "--out", out)
    assert out.read_text() == "kept"
    assert [*tmp_path.iterdir()] == [out]


def test_an_unknown_format_names_those_that_exist(run, tmp_path, capsys):
    said = refused(capsys, "export", run, "--format", "onx", "--out", tmp_path / "a")
    assert "did you mean 'onnx'" in said
    assert "torch, onnx, diffusers" in said


def test_a_format_whose_packages_are_missing_says_what_to_install(run, tmp_path, capsys, monkeypatch):
    found = records.importlib.util.find_spec
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    said = refused(capsys, "export", run, "--format", "onnx", "--out", tmp_path / "a")
    assert "onnxscript" in said
    assert "pip install 'diffcore[onnx]'" in said


def test_an_unknown_part_and_a_decoder_that_does_not_exist(run, tmp_path, capsys):
    words = ("export", run, "--format", "torch", "--out", tmp_path / "a", "--part")
    assert "there are: denoiser, decoder" in refused(capsys, *words, "encoder")
    assert "diffuses in no latents" in refused(capsys, *words, "decoder")
    assert not [*tmp_path.iterdir()]


def test_a_run_that_draws_no_samples_is_refused(tmp_path, capsys):
    installed = registry.installed()
    settings = {"task": "classify", "classifier": {"name": "encoder", "width": 8}, "data": {"name": "digits"}}
    model = build_model(
        compose(installed, "image", file=settings), installed.modality("image").facts(**FACTS), installed
    )
    run = run_of_weights(tmp_path / "run", "image", settings, FACTS, model.network.state_dict(), installed, "test")
    said = refused(capsys, "export", run, "--format", "torch", "--out", tmp_path / "a.pt2")
    assert "draws no samples" in said
    assert not (tmp_path / "a.pt2").exists()


def test_a_file_that_computes_something_else_is_not_kept(run, tmp_path):
    def wrong(path: Path):
        call = torch_format.opened(path)
        return lambda given: {name: value * 1.01 for name, value in call(given).items()}

    with pytest.raises(UserError, match="another x0 than the run"):
        written(run, tmp_path / "a.pt2", registry.installed(), "denoiser", torch_format.save, wrong)
    assert not [*tmp_path.iterdir()]


def test_a_difference_is_seen_in_every_output():
    function = denoiser_function(*loaded("image unet, attention, variances"))
    for name in ("x0", "eps", "variance"):

        def call(given, name=name):
            found = function.module(**given)
            return {**found, name: found[name] + 1e-2}

        with pytest.raises(UserError, match=f"another {name} than"):
            checked(function, call, "the file")


def test_a_network_that_cannot_be_traced_is_refused_in_a_line():
    function = denoiser_function(*loaded("image dit, words"))
    network = function.module.parts["denoiser"].backbone

    def looks(module, given):
        assert given[0].sum() > -1e9

    network.register_forward_pre_hook(looks)
    with pytest.raises(UserError, match=r"torch.export cannot write this network: \S[^\n]*$"):
        program_of(function)


def test_the_help_lists_the_formats_that_are_installed(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in ("torch ", "onnx ", "diffusers "))


def test_the_description_is_json_without_numbers_that_json_lacks(run, exported):
    json.loads(torch_format.as_text(torch_format.description_in(exported)), parse_constant=pytest.fail)
