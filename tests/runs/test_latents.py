"""Diffusion in latents: statistics, augmentations, runs with a first stage, and first stages that are refused."""

import json
import math
import shutil
import tomllib
from dataclasses import replace

import pytest
import torch

import diffcore as dc
from diffcore import cli
from diffcore.denoising.inputs import Inputs
from diffcore.errors import UserError
from diffcore.plugins.guidance import Guidance
from diffcore.plugins.records import Preset
from diffcore.plugins.registry import Provided
from diffcore.process.schedules import Cosine, ending_at
from diffcore.runs.coding import decode, encode, prepared_data
from diffcore.runs.composing import compose
from diffcore.runs.first_stage import load_first_stage, use_first_stage
from diffcore.runs.generation import example_conditions, generate
from diffcore.runs.inherited import data_of_first_stage
from diffcore.runs.model import build_data, build_model
from diffcore.runs.sampling_config import sampling_config
from diffcore.states.channels import exact_moments
from diffcore.states.noise import Draws, generator_for
from tests.support import refusals
from tests.support.latent_toy import LATENT, latent_registry
from tests.support.toy import ToyCodec, put_in_place

REGISTRY = latent_registry()
QUICK = {"learning_rate": 0.05, "warmup_steps": 5, "ema_width": 0.02, "evaluate": 20}


@pytest.fixture(scope="module", autouse=True)
def registry(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, REGISTRY)
        patch.setenv("DIFFCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def autoencoder(path, modality="latent", steps=60, **options):
    return dc.train(modality, task="encode", train={**QUICK, "steps": steps}, out=path, **options).path


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return autoencoder(tmp_path_factory.mktemp("first") / "run")


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    return autoencoder(tmp_path_factory.mktemp("mirrored") / "run", "mirrored")


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """A run in the latents of a copy of the first stage, which is gone afterwards."""
    place = tmp_path_factory.mktemp("second")
    shutil.copytree(first, place / "first")
    run = dc.train("latent", latent=place / "first", train={**QUICK, "steps": 30}, out=place / "run")
    shutil.rmtree(place / "first")
    return run.path


def in_latents_of(path, modality="latent", **latent):
    settings = compose(REGISTRY, modality, file={"latent": {"run": str(path), **latent}})
    data = build_data(settings, REGISTRY)
    stage = load_first_stage(settings, REGISTRY)
    model = build_model(settings, data.facts, REGISTRY, first_stage=stage.described)
    use_first_stage(model, stage, settings, data)
    return model, data


def test_moments_are_exact():
    """Where float32 would lose them: far from zero, over parts of different sizes."""
    x = torch.randn(3000, 2, 7, generator=generator_for(0)) * 0.01 + torch.tensor([1000.0, -3.0])[:, None]
    parts = [(x[:1000], None), (x[1000:1001], None), (x[1001:], None)]
    (mean,), (std,) = (moments.values() for moments in exact_moments(parts, 1))
    flat = x.double().transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(mean, flat.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(std, flat.std(0, correction=0), rtol=1e-10, atol=0)


def test_moments_are_those_of_existing_elements():
    x = torch.randn(40, 5, 3, generator=generator_for(0))
    mask = torch.rand(40, 5, generator=generator_for(1)) < 0.5
    (mean,), (std,) = (moments.values() for moments in exact_moments([(x, mask)], -1))
    torch.testing.assert_close(mean, x[mask].double().mean(0))
    torch.testing.assert_close(std, x[mask].double().std(0, correction=0))


def test_latents_of_all_data_have_mean_0_and_variance_1(first):
    model, data = in_latents_of(first)
    state = encode(model, data.examples).state.double()
    torch.testing.assert_close(state.mean(0), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(state.std(0, correction=0), torch.ones(2).double(), atol=1e-6, rtol=0)
    network = dc.load(first).model.network.autoencoder
    plain = model.codec.first.encode(data.examples).state
    torch.testing.assert_close(decode(model, state.float()), network.decode(network.encode(plain))["place"])


def test_a_run_diffuses_in_latents_and_needs_its_first_stage_no_more(second, first):
    run = dc.load(second)
    samples = run.sample(6, seed=3)
    assert samples.state.shape == (6, 2)
    network, codec = dc.load(first).model.network.autoencoder, run.model.codec
    raw = samples.state * codec.std["field_"] + codec.mean["field_"]
    torch.testing.assert_close(samples.decoded, network.decode(raw)["place"])
    assert {"radius_error", "samples_per_second"} <= {metric.name for metric in run.evaluate(n=10)}
    assert run.log_likelihood(samples.state).isfinite().all()
    examples = run.data.examples[:3]
    with pytest.raises(dc.UserError, match=r"no batch of encoded states: .* `diffcore.runs.coding.encode"):
        run.log_likelihood(examples)
    assert run.log_likelihood(encode(run.model, examples)).isfinite().all()
    config = json.loads((second / "config.json").read_text())
    assert config["first_stage"]["autoencoder"] == {"latent": 2, "name": "linear"}
    assert config["first_stage"]["last_log_snr"] == 5.0
    assert config["codec"]


def test_training_and_sampling_end_at_the_log_snr_of_the_first_stage(second):
    run = dc.load(second)
    times = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert run.model.schedule.log_snr(times).tolist() == pytest.approx([-10.0, 5.0])
    clean = torch.full((1, 2), 0.5)
    perfect = lambda x, level, conditions=None, mask=None: dc.Prediction(x, level, clean.expand_as(x), "x0")  # noqa: E731
    found = run.sample(2000, steps=3, guides=[lambda denoise: perfect]).state
    assert found.mean().item() == pytest.approx(0.5, abs=0.01)
    assert found.std().item() == pytest.approx(math.exp(-2.5), rel=0.03)


def test_samples_are_in_the_unit_of_latents_at_any_last_log_snr(first):
    """At log-SNR 0, alpha is 0.71: x / alpha has the mean of the latents, and noise of standard deviation 1."""
    model, _ = in_latents_of(first)
    model.codec.stage = model.codec.stage.model_copy(update={"last_log_snr": 0.0})
    model = replace(model, schedule=ending_at(Cosine(), 0.0))
    clean = torch.full((1, 2), 0.5)
    perfect = lambda x, level, conditions=None, mask=None: dc.Prediction(x, level, clean.expand_as(x), "x0")  # noqa: E731
    config = sampling_config(compose(REGISTRY, "latent").sample, REGISTRY, model)
    config = replace(config, steps=4, guides=(Guidance(lambda denoise, plain: perfect),))
    found = generate(model, config, example_conditions(model, 4000), 4000).state
    assert found.mean().item() == pytest.approx(0.5, abs=0.03)
    assert found.std().item() == pytest.approx(1.0, rel=0.03)


def test_a_resumed_run_in_latents_is_an_unbroken_one(first, tmp_path):
    train = {**QUICK, "evaluate": 0, "checkpoint_every": 10}
    whole = dc.train("latent", latent=first, train={**train, "steps": 20}, out=tmp_path / "whole")
    broken = dc.train("latent", latent=first, train={**train, "steps": 10}, out=tmp_path / "broken")
    broken = broken.resume({"steps": 20})
    assert torch.equal(whole.sample(4).state, broken.sample(4).state)


def test_the_first_stage_of_another_run_is_refused(second, mirrored, tmp_path):
    shutil.copytree(second, tmp_path / "run")
    other = dc.train(
        "latent", latent=autoencoder(tmp_path / "ae", seed=5), train={**QUICK, "steps": 1}, out=tmp_path / "b"
    )
    shutil.copy(other.path / "codec.safetensors", tmp_path / "run" / "codec.safetensors")
    with pytest.raises(UserError, match="does not hold the weights that the run was trained with"):
        dc.load(tmp_path / "run").sample(1)
    with pytest.raises(UserError, match="was trained with other weights of the codec than this model"):
        dc.load(second).sample(1, weak=other.path)


def test_examples_are_encoded_once(first, monkeypatch):
    model, data = in_latents_of(first)
    expected = prepared_data(model, data)
    monkeypatch.setattr(type(model.codec), "prepare", None)
    kept = prepared_data(model, data)
    assert torch.equal(kept["latent:"], expected["latent:"])


def test_augmented_examples_have_several_encodings(mirrored):
    model, data = in_latents_of(mirrored, "mirrored", views=3)
    ready = prepared_data(model, data)
    assert ready["latent:"].shape == (200, 4, 2)
    draws = Draws.of(7, range(200))
    plain, moved = model.codec.encode(ready).state, model.codec.encode(ready, draws).state
    codec = model.codec
    mean, std = codec.mean["field_"], codec.std["field_"]
    torch.testing.assert_close(plain, (ready["latent:"][:, 0] - mean) / std)
    distances = (((ready["latent:"] - mean) / std) - moved[:, None]).norm(dim=2)
    assert distances[:, 1:].amin(1).max() < 1e-6  # each is one of those that are kept
    raw = ready["latent:"].flatten(0, 1).double()
    torch.testing.assert_close(mean, raw.mean(0).float())
    torch.testing.assert_close(std, raw.std(0, correction=0).float())


def test_without_kept_encodings_examples_are_encoded_in_every_step(mirrored):
    model, data = in_latents_of(mirrored, "mirrored", views=0)
    ready, draws, codec = prepared_data(model, data), Draws.of(7, range(200)), model.codec
    state = codec.first.encode(data.examples, draws).state
    torch.testing.assert_close(codec.encode(ready, draws).state, codec.latent(state))


def test_data_without_augmentation_are_encoded_once_each(first):
    model, data = in_latents_of(first, views=3)
    assert prepared_data(model, data)["latent:"].shape == (200, 1, 2)


def test_a_classifier_in_the_same_latents_guides(second, first, tmp_path):
    short = {"steps": 3, "evaluate": 0}
    dc.train("latent", task="classify", latent=first, out=tmp_path / "classifier", train=short)
    dc.load(second).sample(2, conditions={"ring": "inner"}, classifier=tmp_path / "classifier")


def test_grids_are_fitted_up_to_the_end_of_sampling(second, tmp_path):
    shutil.copytree(second, tmp_path / "run")
    found = dc.load(tmp_path / "run").tune(steps=3, trajectories=4, iterations=4)
    assert found.error <= found.default_error


def refused(capsys, *flags):
    return refusals.refused(capsys, "train", "--modality", "latent", "--train.steps", "1", *flags)


def test_runs_that_are_no_first_stages_are_refused(first, second, mirrored, tmp_path, capsys):
    assert f"no run folder {tmp_path / 'nowhere'}" in refused(capsys, "--latent", tmp_path / "nowhere")
    assert f"{second} has the task denoise and no latents; --latent is a run with --task encode" in refused(
        capsys, "--latent", second
    )
    assert "is a model of mirrored, but this is a run of latent" in refused(capsys, "--latent", mirrored)
    assert "this run trains an autoencoder itself" in refused(capsys, "--task", "encode", "--latent", first)
    shutil.copytree(first, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "checkpoints")
    assert "has no checkpoint yet" in refused(capsys, "--latent", tmp_path / "bare")
    shutil.copytree(first, tmp_path / "damaged")
    for path in (tmp_path / "damaged" / "checkpoints").glob("*/ema.safetensors"):
        path.write_bytes(path.read_bytes()[:-7])
    assert "damaged" in refused(capsys, "--latent", tmp_path / "damaged")


def test_an_untrained_first_stage_is_refused(tmp_path, capsys):
    path = autoencoder(tmp_path / "new", steps=1)
    assert f"the first stage {path} is not trained: it reconstructs examples with a loss of" in refused(
        capsys, "--latent", path
    )


def test_a_first_stage_of_states_of_another_form_is_refused(first, monkeypatch, capsys):
    from diffcore.states.spaces import Euclidean, Product
    from tests.support.toy import ToyFacts

    class Wider(ToyFacts):
        pass

    monkeypatch.setattr(
        ToyCodec,
        "__init__",
        lambda self, facts: (
            setattr(self, "scale", facts.scale),
            setattr(
                self,
                "space",
                ToyCodec.space if facts.scale == 1 else Product({"place": Euclidean((2,)), "radius": Euclidean((2,))}),
            ),
        )[0],
    )
    said = refused(capsys, "--latent", first, "--data.scale", "2")
    assert "differ in their form: radius 2, not 1" in said


def test_editing_that_needs_the_samples_themselves_is_refused(second, tmp_path):
    with pytest.raises(UserError, match="`upscale` by block means needs a model of the samples themselves"):
        dc.load(second).upscale(torch.zeros(1, 1), factor=2)


def test_the_data_set_and_the_preset_follow_from_the_first_stage(tmp_path, monkeypatch, capsys):
    first = autoencoder(tmp_path / "first", data={"name": "again", "n": 60})
    found = dc.train("latent", latent=first, train={"steps": 1, "evaluate": 0}, out=tmp_path / "same")
    assert (found.settings.data.name, found.settings.data.n) == ("again", 60)
    other = dc.train("latent", latent=first, data="rings", train={"steps": 1, "evaluate": 0}, out=tmp_path / "other")
    assert (other.settings.data.name, other.settings.data.n) == ("rings", 200)
    fewer = dc.train("latent", latent=first, data={"n": 70}, train={"steps": 1, "evaluate": 0}, out=tmp_path / "fewer")
    assert (fewer.settings.data.name, fewer.settings.data.n) == ("again", 70)
    presets = {**LATENT.presets, "latent": Preset("in latents", {"denoiser": {"width": 24}})}
    registry = latent_registry()
    registry.modalities["latent"] = Provided(replace(LATENT, presets=presets), "diffcore-latent", "1.0")
    put_in_place(monkeypatch, registry)
    assert cli.main(["config", "--modality", "latent", "--latent", str(first)]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert (shown["preset"], shown["denoiser"]["width"], shown["data"]["n"]) == ("latent", 24, 60)
    assert cli.main(["config", "--modality", "latent"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["preset"] == "default"


def test_the_data_set_of_a_first_stage_of_another_user_is_not_taken_over(first, tmp_path, caplog):
    shutil.copytree(first, tmp_path / "foreign")
    config = json.loads((tmp_path / "foreign" / "config.json").read_text())
    config["settings"]["data"] = {"name": "again", "n": 5, "scale": 1.0}
    del config["sha256"]
    (tmp_path / "foreign" / "config.json").write_text(json.dumps(config))
    assert data_of_first_stage(str(tmp_path / "foreign")) == {}
    assert "is not a run of yours, so its data set is not taken over" in caplog.text
    assert data_of_first_stage(str(first))["data"]["name"] == "rings"


def test_conditions_of_the_form_of_the_samples_are_refused(first, monkeypatch, capsys):
    condition = ToyCodec.conditions[0]
    shaped = type("Shaped", (type(condition),), {"inputs": Inputs(like_state=1)})(condition.name, condition.classes)
    monkeypatch.setattr(ToyCodec, "conditions", (shaped,))
    said = refused(capsys, "--latent", first)
    assert "the condition ring has the form of the samples, so it cannot be given in latents" in said
