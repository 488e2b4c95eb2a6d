import dataclasses
import math

import pytest
import torch
from tensordict import TensorDict

from diffcore.denoising.conditions import ClassCondition
from diffcore.evaluation.metrics import evenly, frechet_distance
from diffcore.plugins.data import Data, Encoded
from diffcore.states.spaces import Euclidean
from diffcore_pointcloud.evaluation import evaluator as evaluator_module
from diffcore_pointcloud.evaluation import metrics as set_metrics
from diffcore_pointcloud.evaluation.evaluator import build_evaluator
from diffcore_pointcloud.options import CloudFacts

POINTS = 48
CENTRE, SCALE = (5.0, -3.0, 1.0), 20.0


class Codec:
    """The part of a codec that the evaluator uses: the first points of a pool, or random ones with a generator."""

    def __init__(self, facts):
        self.facts = facts
        self.space = Euclidean((facts.points, 3))
        self.conditions = (ClassCondition("label", facts.classes),) if facts.classes else ()
        self.sizes = None

    def encode(self, examples, draws=None):
        pool = examples["positions"]
        rows = torch.arange(pool.shape[1]) if draws is None else draws.uniform("rows", pool.shape[1])[0].argsort()
        positions = pool[:, rows[: self.facts.points]].float()
        return Encoded((positions - torch.tensor(self.facts.centre)) / self.facts.scale, {"label": examples["label"]})

    def decode(self, state, mask=None):
        raise NotImplementedError


def examples(n, seed, pool=POINTS + 16):
    """Balls, boxes and sticks of many sizes, in a unit in which they are large and far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 3
    normal = torch.randn(n, pool, 3, generator=generator)
    even = 2 * torch.rand(n, pool, 3, generator=generator) - 1
    ball = torch.nn.functional.normalize(normal, dim=2)
    box = even / even.abs().amax(2, keepdim=True)
    stick = even * torch.tensor([0.1, 2.0, 0.1])
    unit = torch.stack([ball, box, stick], 1)[torch.arange(n), label]
    sized = unit * (0.7 + 0.6 * torch.rand(n, 1, 3, generator=generator))
    positions = (sized * SCALE + torch.tensor(CENTRE)).half()
    return TensorDict({"positions": positions, "label": label}, batch_size=[n])


def samples_of(part):
    return TensorDict({"positions": part["positions"][:, -POINTS:].float()}, batch_size=[len(part)])


FACTS = CloudFacts(points=POINTS, classes=("ball", "box", "stick"), centre=CENTRE, scale=SCALE)


@pytest.fixture(scope="module")
def data():
    return Data(FACTS, examples(300, 0), examples(90, 1))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Fewer shapes for the slower distance, and less training, as these shapes are easy to classify."""
    chamfer, earth_mover = evaluator_module.COMPARISONS
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            evaluator_module, "COMPARISONS", (chamfer, dataclasses.replace(earth_mover, shapes=30, points=24))
        )
        patched.setattr(evaluator_module, "_STEPS", 120)
        yield


@pytest.fixture(scope="module")
def evaluator(data, cache, quick):
    return build_evaluator(Codec(FACTS), data, cache)


def values(metrics):
    return {metric.name: metric.value for metric in metrics}


@pytest.fixture(scope="module")
def good(evaluator):
    real = examples(120, 2)
    return evaluator(samples_of(real), {"label": real["label"]})


def test_metrics_of_real_shapes_are_close_to_the_best_values(good):
    found = values(good)
    assert found["finite"] == 1
    assert found["class_agreement"] > 0.95
    assert found["class_agreement_real"] > 0.95
    # An accuracy over 2 x 90 clouds has a standard deviation of 0.04, over 2 x 30 one of 0.065.
    for name, tolerance in (("one_nna_cd", 0.15), ("one_nna_emd", 0.25)):
        assert found[name] == pytest.approx(0.5, abs=tolerance)
        assert found[f"{name}_real"] == pytest.approx(0.5, abs=tolerance)
    for name in ("mmd_cd", "mmd_emd", "coverage_cd"):
        assert found[name] == pytest.approx(found[f"{name}_real"], rel=0.25)
    assert 0.3 < found["frechet_ratio"] < 3
    assert found["comparison_seconds"] > 0


def test_meanings_describe_the_comparison(good):
    meanings = {metric.name: metric.meaning for metric in good}
    assert "90 samples against 90 held-out shapes, Chamfer distance of 48 points" in meanings["one_nna_cd"]
    assert "30 samples against 30 held-out shapes, exact earth mover's distance of 24" in meanings["coverage_emd"]
    assert meanings["one_nna_cd_real"] == "the same for 90 training shapes in place of the samples"
    assert "half of 90 samples against half of 90 held-out shapes" in meanings["frechet_distance"]


def test_metrics_detect_noise_wrong_classes_and_missing_variety(evaluator, good):
    real = examples(120, 2)
    samples, asked = samples_of(real)["positions"], {"label": real["label"]}
    good = values(good)

    def metrics_of(positions, conditions=asked):
        return values(evaluator(TensorDict({"positions": positions}, batch_size=[len(positions)]), conditions))

    noisy = metrics_of(samples + SCALE * torch.randn(samples.shape, generator=torch.Generator().manual_seed(0)))
    assert noisy["one_nna_cd"] > 0.85
    assert noisy["one_nna_emd"] > 0.75
    assert noisy["coverage_cd"] < 0.5 * good["coverage_cd"]
    assert noisy["mmd_cd"] > 2 * good["mmd_cd"]
    assert noisy["frechet_ratio"] > 5 * good["frechet_ratio"]
    wrong = metrics_of(samples, {"label": (real["label"] + 1) % 3})
    assert wrong["class_agreement"] < 0.05
    first_of_class = samples[real["label"]]  # rows 0, 1 and 2 are one of each class
    collapsed = metrics_of(first_of_class)
    assert collapsed["coverage_cd"] < 0.1
    assert collapsed["one_nna_cd"] > 0.9
    assert collapsed["class_agreement"] > 0.95


def test_distances_are_those_of_the_metrics_in_the_scale_of_the_codec(evaluator, data):
    """A second computation: held-out shapes class by class, compared with samples in their order."""
    real = examples(60, 3)
    label = real["label"]
    found = values(evaluator(samples_of(real), {"label": label}))
    rows = [(of == kind).nonzero()[:20, 0] for of in (label, evaluator._labels) for kind in range(3)]
    samples = (samples_of(real)["positions"].double() - torch.tensor(CENTRE)) / SCALE
    s, r = samples[torch.cat(rows[:3])], evaluator._real[torch.cat(rows[3:])].double()
    across, among_s, among_r = set_metrics.pairwise(s, r), set_metrics.pairwise(s), set_metrics.pairwise(r)
    assert found["mmd_cd"] == pytest.approx(across.amin(0).mean().item(), rel=1e-4)
    assert found["coverage_cd"] == len(set(across.argmin(1).tolist())) / 60
    assert found["one_nna_cd"] == pytest.approx(set_metrics.one_nna(among_s, across, among_r), abs=0.02)
    features = [evaluator._classifier.features_and_logits(part.float())[0] for part in (s, r)]
    assert 0.5 < found["frechet_distance"] / frechet_distance(*features) < 4  # the distance of halves is larger


def test_real_shapes_have_the_requested_classes_of_samples(evaluator):
    """Sticks are compared with sticks only: otherwise 1-NNA would distinguish them by their class."""
    real = examples(120, 2)
    sticks = real[real["label"] == 2]
    metrics = evaluator(samples_of(sticks), {"label": sticks["label"]})
    found, meanings = values(metrics), {metric.name: metric.meaning for metric in metrics}
    assert "30 samples against 30 held-out shapes" in meanings["one_nna_cd"]
    assert found["one_nna_cd"] == pytest.approx(0.5, abs=0.25)
    without_class = values(evaluator(samples_of(sticks), {"label": torch.full((len(sticks),), 3)}))
    assert without_class["one_nna_cd"] > found["one_nna_cd"] + 0.1
    assert without_class["coverage_cd"] < 0.5
    assert "class_agreement" not in without_class


def test_samples_of_a_diverged_run_have_finite_metrics(evaluator):
    real = examples(60, 2)
    samples, asked = samples_of(real), {"label": real["label"]}
    some = samples.clone()
    some["positions"][:15, 3, 1] = math.nan
    some["positions"][15:30] = math.inf
    some["positions"][30] = 1e30
    found = values(evaluator(some, asked))
    assert found["finite"] == 0.5
    assert 0.45 <= found["class_agreement"] <= 0.5
    assert all(math.isfinite(value) for value in found.values())
    kept = values(evaluator(samples[30:], {"label": real["label"][30:]}))
    some["positions"][30] = samples["positions"][30]
    again = values(evaluator(some, asked))
    for name in kept.keys() - {"finite", "class_agreement", "comparison_seconds"}:
        assert again[name] == kept[name]
    no_finite = samples.clone()
    no_finite["positions"][:] = math.nan
    assert values(evaluator(no_finite, asked)) == {
        "finite": 0,
        "class_agreement": 0,
        "class_agreement_real": values(evaluator(samples, asked))["class_agreement_real"],
    }
    distant = samples.clone()
    distant["positions"][:] = 1e30
    found = values(evaluator(distant, asked))
    assert found["one_nna_cd"] == 1
    assert all(math.isfinite(value) for value in found.values())


def test_the_classifier_is_cached(evaluator, data, cache, monkeypatch):
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr("diffcore.evaluation.classifier._fit", lambda *a: pytest.fail("trained again"))
    again = build_evaluator(Codec(FACTS), data, cache)
    torch.testing.assert_close(again._features, evaluator._features)


@pytest.mark.parametrize("classes", [(), ("shape",)], ids=["no class", "one class"])
def test_without_classes_and_held_out_shapes_halves_are_compared(tmp_path, classes):
    """A single class says as little as none: every sample would agree with it."""
    plain = FACTS.model_copy(update={"classes": classes})
    unlabelled = examples(120, 0)
    unlabelled["label"] = torch.zeros_like(unlabelled["label"])
    evaluator = build_evaluator(Codec(plain), Data(plain, unlabelled), tmp_path)
    metrics = evaluator(samples_of(examples(120, 2)), {})
    found = values(metrics)
    assert not any("class" in name or "frechet" in name for name in found)
    assert found["one_nna_cd"] == pytest.approx(0.5, abs=0.2)
    meanings = {metric.name: metric.meaning for metric in metrics}
    assert "60 samples against 60 shapes of one half of the training data" in meanings["one_nna_cd"]
    assert not list(tmp_path.iterdir())


def test_comparisons_have_a_maximal_number_of_shapes(evaluator, monkeypatch):
    """Evenly spaced rows, in order of class, keep the proportions of the classes."""
    few = evaluator_module.Comparison("cd", "Chamfer distance", "", set_metrics.chamfer, 30, 10)
    monkeypatch.setattr(evaluator_module, "COMPARISONS", (few,))
    real = examples(90, 2)
    metrics = evaluator(samples_of(real), {"label": real["label"]})
    (meaning,) = (metric.meaning for metric in metrics if metric.name == "one_nna_cd")
    assert meaning.endswith("30 samples against 30 held-out shapes, Chamfer distance of 10 points")
    labels = real["label"].sort().values
    assert torch.bincount(labels[evenly(torch.arange(90), 30)]).tolist() == [10, 10, 10]
