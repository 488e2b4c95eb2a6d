"""A judge must not be pleased with noise."""

import pytest
import torch
from torch import nn

from diffcore.evaluation.judge import Components, judge_of
from diffcore.evaluation.metrics import distance_metrics


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


def waves(n, seed, frequencies=(1,)):
    """Smooth waves on an 8x8 grid with random phases, in classes of different frequencies, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % len(frequencies)
    frequency = torch.tensor(frequencies)[labels]
    phase = 0.5 * torch.rand(n, 1, 1, generator=generator)
    x = torch.arange(8) / 8
    angle = frequency[:, None, None] * (x[:, None] + x[None]) + phase
    return 0.5 * (2 * torch.pi * angle).sin() + 0.02 * torch.randn(n, 8, 8, generator=generator), labels


def judge(tmp_path, train, tested, classes, **options):
    return judge_of(Body, 16, train, tested, classes, tmp_path, "test", "waves", steps=200, **options)


def ratio(judge, samples, reference, labels):
    features, real = (judge.features_and_logits(x)[0] for x in (samples, reference))
    return distance_metrics(features, real, labels, "waves", judge.space)[2].value


NOISE = torch.rand(200, 8, 8, generator=torch.Generator().manual_seed(9)) - 0.5


@pytest.mark.parametrize("classes", [0, 1])
def test_noise_is_far_from_data_of_one_class(tmp_path, classes):
    train, fresh = waves(200, 0), waves(200, 1)
    found = judge(tmp_path, train, fresh, classes)
    assert found.space == "principal components of waves" + (", as there is one class" if classes else "")
    _, logits = found.features_and_logits(NOISE)
    assert found.agreement(logits, torch.zeros(200)) == []
    assert ratio(found, fresh[0], *train) < 3
    assert ratio(found, NOISE, *train) > 100


def test_classes_are_judged_where_they_differ(tmp_path):
    train, fresh = waves(200, 0, (1, 3)), waves(200, 1, (1, 3))
    found = judge(tmp_path, train, fresh, 2)
    assert found.space == "features of a classifier trained on the data"
    _, logits = found.features_and_logits(fresh[0])
    agreement, real = found.agreement(logits, fresh[1])
    assert agreement.value == pytest.approx(1, abs=0.02)
    assert real.value == agreement.value
    assert ratio(found, NOISE, *train) > 10


def test_classes_that_do_not_differ_are_not_judged(tmp_path, caplog):
    (train, _), (fresh, _) = waves(200, 0), waves(200, 1)
    labels = torch.randint(2, (200,), generator=torch.Generator().manual_seed(0))
    found = judge(tmp_path, (train, labels), (fresh, labels), 2)
    assert found.space == "principal components of waves, as a classifier cannot tell the classes apart"
    assert found.features_and_logits(fresh)[1] is None
    assert "no class agreement: a classifier assigns" in caplog.text


def test_features_that_do_not_tell_noise_are_not_used(tmp_path):
    """Classes that differ in their mean alone: a classifier of means sees no noise, but it knows the classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    values = labels[:, None, None] + 0.1 * torch.randn(200, 8, 8, generator=generator)

    class Mean(nn.Module):
        def forward(self, x):
            return x.flatten(1).mean(1, keepdim=True)

    found = judge_of(Mean, 1, (values, labels), (values, labels), 2, tmp_path, "mean", "grids", steps=200)
    assert found.space.startswith("principal components of grids, as the features of a classifier do not tell")
    assert found.agreement(found.features_and_logits(values)[1], labels)[0].value == 1


def test_components_show_what_lies_outside_of_them():
    axes = torch.eye(4)[:, :2]
    features = Components(lambda x: x.flatten(1), torch.ones(4), axes)(torch.tensor([[1.0, 3.0, 4.0, 5.0]]))
    assert features.tolist() == [[0.0, 2.0, 5.0]]
