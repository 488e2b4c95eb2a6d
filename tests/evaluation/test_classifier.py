"""The classifier that metrics are measured with, and what is measured in its features."""

import math

import pytest
import torch
from torch import nn

from diffcore.evaluation.classifier import Classifier, trained_classifier
from diffcore.evaluation.metrics import agreement_metrics, distance_metrics, frechet_distance, inception_score


def blobs(n=600, seed=0):
    """Three Gaussian blobs in the plane, far apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centres = torch.tensor([[0.0, 4.0], [4.0, 0.0], [-4.0, -4.0]])
    return centres[labels] + torch.randn(n, 2, generator=generator), labels


def body():
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU())


def classifier(cache, **options):
    return trained_classifier(body, 16, *blobs(), 3, cache, "blobs", steps=200, **options)


def test_it_learns_what_can_be_told_apart(tmp_path):
    points, labels = blobs(seed=1)
    features, logits = classifier(tmp_path).features_and_logits(points, size=7)
    assert (logits.argmax(1) == labels).double().mean() > 0.97
    assert features.shape == (600, 16)


def test_training_is_kept_and_the_same_again(tmp_path, monkeypatch):
    first = classifier(tmp_path / "a")
    again = classifier(tmp_path / "b")
    points, _ = blobs()
    torch.testing.assert_close(first(points), again(points))
    monkeypatch.setattr("diffcore.evaluation.classifier._fit", lambda *a: pytest.fail("trained again"))
    torch.testing.assert_close(classifier(tmp_path / "a")(points), first(points))


def test_batches_may_be_changed_before_they_are_learned(tmp_path):
    """Mirrored at the origin, two classes that are each other's mirror images cannot be told apart."""
    labels = torch.arange(400) % 2
    points = torch.where(labels[:, None] == 0, 3.0, -3.0) + 0.1 * torch.randn(400, 2)

    def mirror(batch, generator):
        return batch * (torch.randint(2, (len(batch), 1), generator=generator) * 2 - 1)

    def trained(augment):
        made = trained_classifier(body, 16, points, labels, 2, tmp_path, f"two-{augment is None}", augment, steps=100)
        return made(points).softmax(1).amax(1).mean()  # how sure it is

    assert trained(None) > 0.8
    assert trained(mirror) < 0.6


def test_features_and_logits_belong_together():
    torch.manual_seed(0)
    made = Classifier(nn.Linear(2, 5), 5, 3).eval()
    points, _ = blobs(50)
    features, logits = made.features_and_logits(points, size=20)
    torch.testing.assert_close(features, points @ made.body.weight.T + made.body.bias)
    torch.testing.assert_close(logits, made(points))


def test_inception_score_in_closed_form():
    """Certain and even over k classes it is k; the same answer to everything is 1."""
    assert inception_score(1000 * torch.eye(4).repeat(5, 1)) == pytest.approx(4)
    assert inception_score(torch.randn(1, 4).repeat(9, 1)) == pytest.approx(1)
    # Two inputs, p = (3/4, 1/4) and (1/4, 3/4): the marginal is even.
    p = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    assert inception_score(p.log()) == pytest.approx(math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5)))


def test_figures_of_features():
    torch.manual_seed(0)
    real, made = torch.randn(200, 4), torch.randn(100, 4) + 1
    distance, halves, ratio = distance_metrics(made, real, None, "points", "the plane")
    assert distance.value == pytest.approx(frechet_distance(made, real))
    assert ratio.value == pytest.approx(distance.value / halves.value)
    assert "200 points" in distance.meaning


def test_real_examples_beside_are_as_many_as_samples():
    torch.manual_seed(0)
    real, held_out, made = torch.randn(300, 4), torch.randn(80, 4), torch.randn(100, 4) + 1
    distance, beside, _ = distance_metrics(made, real, None, "points", "the plane", held_out)
    assert beside.value == pytest.approx(frechet_distance(held_out, real))
    assert distance.value == pytest.approx(frechet_distance(made[torch.arange(80) * 100 // 80], real))
    assert distance.meaning.startswith("80 samples against 300 points")


@pytest.mark.parametrize("labels", [torch.arange(60) % 6, torch.arange(60) // 10])
def test_many_samples_are_compared_in_sets_of_as_many_as_held_out_examples(labels):
    """Each set has all classes, whether the classes alternate or are sorted."""
    torch.manual_seed(0)
    real, held_out, made = torch.randn(300, 1), torch.randn(30, 1), labels[:, None] + torch.zeros(60, 1)
    distance, beside, ratio = distance_metrics(made, real, None, "points", "the line", held_out)
    assert distance.value == pytest.approx(frechet_distance(made, real), rel=0.02)  # not of three classes in each set
    assert ratio.value == pytest.approx(distance.value / beside.value)
    assert distance.meaning.startswith("30 samples (mean of 2 sets, from ")


def test_sets_have_the_classes_of_the_held_out_examples():
    """Samples of two classes in equal parts, where one is three times as frequent in the data."""
    torch.manual_seed(0)
    real, held_out = torch.arange(400) % 4 // 3, torch.arange(40) % 4 // 3
    asked = torch.arange(120) % 2
    features = [labels[:, None] + 0.01 * torch.randn(len(labels), 1) for labels in (asked, real, held_out)]
    alone, _, _ = distance_metrics(features[0], features[1], None, "points", "the line", features[2])
    both = (asked, held_out)
    distance, _, _ = distance_metrics(features[0], features[1], None, "points", "the line", features[2], both)
    assert distance.meaning.startswith("40 samples (mean of 2 sets, from ")  # 60 of a class of which each set has 30
    assert distance.value < 1e-4 < 0.05 < alone.value
    without = distance_metrics(features[0], features[1], None, "points", "the line", features[2], (asked + 1, held_out))
    assert without[0] == alone  # a class is missing


def test_agreement_is_the_share_of_right_answers():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 5.0]])
    share, real = agreement_metrics(logits, torch.tensor([0, 1, 1, 1]), 0.9)
    assert (share.value, real.value) == (0.75, 0.9)
