"""Metrics of sounds."""

import math
import sys
from types import ModuleType, SimpleNamespace

import numpy
import pytest
import soundfile
import torch
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.evaluation.metrics import frechet_distance
from diffcore.plugins.data import Data
from diffcore_audio.evaluation import ceilings, evaluator, fad
from diffcore_audio.evaluation.evaluator import build_evaluator
from diffcore_audio.evaluation.features import augment
from diffcore_audio.evaluation.neighbours import copy_threshold, nearest
from diffcore_audio.options import ComplexFacts, SoundFacts

RATE, SAMPLES = 8000, 2000
CLASSES = ("tone", "noise", "click")


def sounds(n, seed):
    """Tones of random pitch, decaying noise, and clicks; `n` of each."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(SAMPLES) / RATE

    def uniform(low, high):
        return low + (high - low) * torch.rand(n, 1, generator=generator)

    tones = torch.sin(2 * math.pi * uniform(200, 3000) * time) * uniform(0.1, 0.5)
    noises = torch.randn(n, SAMPLES, generator=generator) * 0.1 * torch.exp(-time / uniform(0.02, 0.1))
    clicks = torch.zeros(n, SAMPLES)
    clicks.scatter_(1, torch.randint(0, SAMPLES, (n, 3), generator=generator), uniform(0.3, 1).expand(n, 3))
    waves = torch.cat([tones, noises, clicks]).clamp(-1, 1)
    return examples(waves[:, None], torch.arange(3).repeat_interleave(n))


def examples(waves, labels):
    stored = (waves * 32767).round().to(torch.int16)
    return TensorDict({"waveform": stored, "label": labels}, batch_size=[len(stored)])


def floats(found):
    return found["waveform"].float() / 32768


def made(train, held_out, cache, classes=CLASSES):
    representation = ComplexFacts(fft=254, hop=64, exponent=0.3, scale=1.0)
    facts = SoundFacts(rate=RATE, samples=SAMPLES, classes=classes, codec=representation)
    return build_evaluator(SimpleNamespace(facts=facts), Data(facts, train, held_out), cache)


def values(metrics):
    return {metric.name: metric.value for metric in metrics}


@pytest.fixture(scope="module")
def quick():
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluator, "_STEPS", 150)
    patch.delenv(fad.VARIABLE, raising=False)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, quick):
    train, held_out, cache = sounds(60, 0), sounds(20, 1), tmp_path_factory.mktemp("cache")
    return train, held_out, made(train, held_out, cache), cache


def test_real_sounds_score_as_real(prepared):
    _, held_out, evaluator, _ = prepared
    found = values(evaluator(floats(held_out), {"label": held_out["label"]}))
    assert found["class_agreement"] == found["class_agreement_real"] >= 0.95
    assert 2.6 < found["inception_score"] <= 3
    assert found["inception_score"] == pytest.approx(found["inception_score_real"])
    assert found["frechet_ratio"] < 3
    assert found["nearest_db"] == pytest.approx(found["nearest_db_real"])
    assert found["copies"] == found["copies_real"] < 0.1
    assert found["silence_rate"] == found["silence_rate_real"] == 0


def test_shuffled_labels_agree_by_chance(prepared):
    _, held_out, evaluator, _ = prepared
    shuffled = (
        held_out["label"] + torch.arange(60)
    ) % 3  # each class is requested for sounds of each class equally often
    found = values(evaluator(floats(held_out), {"label": shuffled}))
    assert found["class_agreement"] == pytest.approx(1 / 3, abs=0.05)


def test_class_agreement_counts_only_samples_with_a_requested_class(prepared):
    _, held_out, evaluator, _ = prepared
    label = held_out["label"].clone()
    label[label == 1] = 3  # no class requested
    assert values(evaluator(floats(held_out), {"label": label}))["class_agreement"] >= 0.95
    assert "class_agreement" not in values(evaluator(floats(held_out), {"label": torch.full((60,), 3)}))
    assert "class_agreement" not in values(evaluator(floats(held_out), {}))


def test_copies_of_training_sounds_are_noticed(prepared):
    train, held_out, evaluator, _ = prepared
    found = values(evaluator(floats(train), {"label": train["label"]}))
    assert found["copies"] == 1
    assert found["nearest_db"] == 0
    half = torch.cat([floats(train)[::3], floats(held_out)])
    assert values(evaluator(half, {}))["copies"] == pytest.approx((1 + found["copies_real"]) / 2)
    assert found["copies_real"] < 0.1
    hidden = floats(train) + 1e-4 * torch.randn(floats(train).shape, generator=torch.Generator().manual_seed(0))
    assert values(evaluator(hidden, {}))["copies"] == 1  # with hiss of -80 dBFS


def test_one_class_alone_lacks_variety(prepared):
    _, held_out, evaluator, _ = prepared
    good = values(evaluator(floats(held_out), {}))
    tones = values(evaluator(floats(held_out)[:20], {}))
    assert tones["inception_score"] < 1.2
    assert tones["frechet_distance"] > 5 * good["frechet_distance"]


def test_silence_and_loudness_are_measured(prepared):
    _, held_out, evaluator, _ = prepared
    waves = floats(held_out).clone()
    waves[:15] = 0
    waves[15:24] = math.nan
    waves[24:30] *= 1e-4
    found = values(evaluator(waves, {"label": held_out["label"]}))
    assert found["silence_rate"] == 0.5
    assert all(math.isfinite(value) for value in found.values())
    tone = math.sqrt(2) * 0.1 * torch.sin(2 * math.pi * 1000 * torch.arange(SAMPLES) / RATE)
    assert values(evaluator(tone.expand(4, 1, -1), {}))["rms_db"] == pytest.approx(-20, abs=1e-3)


def test_what_the_codec_does_to_real_sounds_is_measured(prepared, monkeypatch):
    """Complex spectrograms are inverted exactly; a codec that halves the amplitude and adds noise is found out."""
    train, held_out, evaluator, cache = prepared
    found = values(evaluator(floats(held_out), {"label": held_out["label"]}))
    for name in ("class_agreement", "frechet_ratio", "rms_db", "noise_floor_db", "full_scale", "decay_error"):
        assert found[f"{name}_codec"] == pytest.approx(found[name], rel=0.02, abs=0.02), name
    assert found["spectral_distance_codec"] < 0.01
    assert found["stft_distance_codec"] < 0.01
    noise = 2e-3 * torch.randn(1, 1, SAMPLES, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(ceilings, "representation", lambda facts: Halved(noise))
    worse = values(made(train, held_out, cache)(floats(held_out), {"label": held_out["label"]}))
    assert worse["rms_db_codec"] == pytest.approx(found["rms_db"] - 6.02, abs=0.1)
    assert worse["noise_floor_db_codec"] == pytest.approx(found["noise_floor_db"] - 6.02, abs=0.3)
    assert worse["frechet_ratio_codec"] > 2
    assert worse["stft_distance_codec"] > 1
    assert worse["frechet_ratio"] == pytest.approx(found["frechet_ratio"], rel=1e-4)


class Halved:
    def __init__(self, noise):
        self.noise = noise

    def state(self, waveform):
        return waveform / 2

    def waveform(self, state):
        return state + self.noise


def test_the_classifier_is_cached(prepared, monkeypatch):
    train, held_out, evaluator, cache = prepared
    monkeypatch.setattr("diffcore.evaluation.classifier._fit", lambda *a: pytest.fail("trained again"))
    again = made(train, held_out, cache)
    arguments = floats(held_out), {"label": held_out["label"]}
    assert values(again(*arguments)) == pytest.approx(values(evaluator(*arguments)), rel=1e-4)


def test_small_uneven_sets_have_metrics(tmp_path, quick, monkeypatch):
    """One sound of a class in training, none of another held out, and samples of one class alone."""
    monkeypatch.setattr(evaluator, "_STEPS", 5)
    everything = sounds(5, 0)
    train, held_out = everything[torch.tensor([0, 1, 2, 5, 6, 10])], everything[torch.tensor([3, 7])]
    metrics = made(train, held_out, tmp_path)(floats(everything)[:2], {"label": torch.zeros(2, dtype=torch.int64)})
    assert all(math.isfinite(metric.value) for metric in metrics)
    assert any("2 samples against 6 training sounds" in metric.meaning for metric in metrics)
    alone = values(made(train, None, tmp_path)(floats(everything), {"label": everything["label"]}))
    assert alone["copies"] >= 6 / 15
    assert all(map(math.isfinite, alone.values()))


@pytest.mark.parametrize("classes", [(), ("sound",)], ids=["no class", "one class"])
def test_sounds_without_classes_are_compared_by_components(tmp_path, quick, classes):
    """A single class says as little as none: every sample would agree with it."""
    train, held_out = sounds(20, 0), sounds(10, 1)
    for part in (train, held_out):
        part["label"] = torch.zeros_like(part["label"])
    one, other = (made(train, held_out, tmp_path, classes=classes) for _ in range(2))
    good, noise = (values(one(waves, {})) for waves in (floats(held_out), torch.randn(30, 1, SAMPLES) * 0.3))
    assert noise["frechet_distance"] > 3 * good["frechet_distance"]
    assert not {"class_agreement", "inception_score"} & good.keys()
    assert values(other(floats(held_out), {})) == good
    assert not list(tmp_path.iterdir())


# Neighbours


def test_nearest_is_the_least_rms_difference():
    generator = torch.Generator().manual_seed(0)
    some, others = (torch.randn(n, 4, 5, generator=generator, dtype=torch.float64) for n in (1200, 30))
    every = (some[:, None] - others).square().mean((2, 3)).sqrt()
    torch.testing.assert_close(nearest(some, others), every.min(1).values)
    within = (some[:, None] - some).square().mean((2, 3)).sqrt().fill_diagonal_(math.inf)
    torch.testing.assert_close(nearest(some), within.min(1).values)
    assert (nearest(others + 40, others + 40) == 0).all()
    assert nearest(others[:1]).isinf().all()


def test_hiss_below_the_floor_is_no_difference():
    loud = torch.full((1, 4, 5), -20.0)
    hissing, silent = (torch.cat([loud, torch.full((1, 4, 5), level)], 2) for level in (-62.0, -80.0))
    assert nearest(hissing, silent).item() == 0
    assert nearest(hissing + 12, silent).item() == pytest.approx(math.sqrt((12**2 + 10**2) / 2))


def test_copies_are_nearer_than_real_sounds_are():
    assert copy_threshold(torch.linspace(1, 2, 101)) == pytest.approx(1.01)
    assert copy_threshold(torch.tensor([0.0] * 5 + [4.0] * 95)) == 1  # five duplicates among a hundred


def test_augmentation_shifts_sounds_in_time_and_loudness_and_raises_their_floor():
    spectra = torch.zeros(400, 2, 9)
    spectra[:, :, 4] = 0.5
    found = augment(spectra, torch.Generator().manual_seed(0), frames=2, decibels=8, hiss=16, depth=80)
    floors = found.amin((1, 2))
    assert ((found > floors[:, None, None]).sum((1, 2)) == 2).all()
    assert 0 <= floors.min() < 0.005
    assert 0.195 < floors.max() <= 0.2
    assert (augment(spectra, torch.Generator().manual_seed(0), hiss=0).amin((1, 2)) == 0).all()  # silence stays silence
    places, level = found[:, 0].argmax(1), found.amax((1, 2))
    assert torch.bincount(places, minlength=9)[2:7].min() > 50
    assert places.unique().tolist() == [2, 3, 4, 5, 6]
    assert 0.4 <= level.min() < 0.405
    assert 0.595 < level.max() <= 0.6


# The Frechet audio distance of fadtk


class Loader:
    """Stands for a model of fadtk: it reads a file of its rate, and returns an embedding for each frame."""

    sr = 16000

    def __init__(self, *arguments):
        self.arguments = arguments

    def load_model(self):
        self.ready = True

    def load_wav(self, path):
        wave, rate = soundfile.read(path)
        assert (rate, wave.ndim, self.ready) == (16000, 1, True)
        assert len(wave) in (16000, 2 * SAMPLES)
        return wave

    def get_embedding(self, wave):
        frames = wave[: len(wave) // 1000 * 1000].reshape(-1, 1000)
        return numpy.stack([frames.std(1), numpy.abs(frames).max(1)], 1).astype(numpy.float16)


@pytest.fixture
def fadtk(tmp_path, monkeypatch):
    package = ModuleType("fadtk")
    package.__spec__ = SimpleNamespace(origin=str(tmp_path / "fadtk" / "__init__.py"))
    models = ModuleType("fadtk.model_loader")
    models.CLAPLaionModel = Loader
    monkeypatch.setitem(sys.modules, "fadtk", package)
    monkeypatch.setitem(sys.modules, "fadtk.model_loader", models)
    monkeypatch.setenv(fad.VARIABLE, "clap-laion-audio")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weights = tmp_path / "fadtk" / ".model-checkpoints" / "630k-audioset-best.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    return weights


def test_the_distance_of_fadtk_is_a_metric_if_it_is_requested(prepared, fadtk):
    train, held_out, evaluator, _ = prepared
    named = {metric.name: metric for metric in evaluator(floats(held_out), {})}
    assert "60 samples and 180 real sounds, clap-laion-audio of fadtk" in named["fad"].meaning
    assert evaluator(floats(train), {})[-1].value < 1e-9
    rows = [torch.rand(n, 1, 16000, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in (2, 3)]
    (metric,) = fad.fad_metrics(*rows, rate=16000)
    embedded = [torch.from_numpy(Loader().get_embedding(part.flatten().numpy())) for part in rows]
    assert metric.value == pytest.approx(frechet_distance(*embedded), rel=0.02, abs=1e-9)


def test_fadtk_is_optional_and_its_weights_are_not_downloaded(prepared, fadtk, monkeypatch):
    waves = floats(prepared[1])
    fadtk.unlink()
    with pytest.raises(UserError, match=r"needs .*630k-audioset-best\.pt, which is missing"):
        fad.fad_metrics(waves, waves, RATE)
    monkeypatch.setenv(fad.VARIABLE, "pann")
    with pytest.raises(UserError, match="DIFFCORE_FADTK=pann is unknown; it must be one of vggish, clap-laion-audio"):
        fad.fad_metrics(waves, waves, RATE)
    monkeypatch.setenv(fad.VARIABLE, "vggish")
    monkeypatch.setitem(sys.modules, "fadtk", None)
    with pytest.raises(UserError, match="needs fadtk"):
        fad.fad_metrics(waves, waves, RATE)
    monkeypatch.delenv(fad.VARIABLE)
    assert fad.fad_metrics(waves, waves, RATE) == []
