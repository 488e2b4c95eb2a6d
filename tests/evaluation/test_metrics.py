import pytest
import torch
from scipy.linalg import sqrtm

from diffcore.errors import UserError
from diffcore.evaluation.evaluate import with_distinct_names
from diffcore.evaluation.metrics import frechet_distance, halves_distance
from diffcore.plugins.output import Metric


def features(n, d, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing * scale + shift


@pytest.mark.parametrize(("n", "d"), [(300, 8), (20, 40)], ids=["full rank", "singular covariance"])
def test_frechet_distance_agrees_with_the_matrix_square_root(n, d):
    a, b = features(n, d, 0), features(2 * n, d, 1, 1.5, 0.3)
    covariances = [torch.cov(x.T).numpy() for x in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real.trace()
    expected = (a.mean(0) - b.mean(0)).square().sum().item() + sum(c.trace() for c in covariances) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_a_set_and_its_shift():
    a = features(100, 5, 0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(5 * 4)


def test_frechet_distance_needs_two_samples():
    with pytest.raises(UserError, match="at least 2 samples"):
        frechet_distance(features(1, 3, 0), features(10, 3, 0))


def test_halves_of_one_distribution_are_near():
    assert 0 < halves_distance(features(2000, 4, 0)) < 0.1


def test_halves_by_class_have_their_classes_in_equal_parts():
    """Two points far apart: halves of each class are equal, random halves are not."""
    classes = torch.arange(40) % 2
    points = 100.0 * classes[:, None].expand(40, 3)
    assert halves_distance(points, classes) == pytest.approx(0, abs=1e-6)
    assert halves_distance(points) > 1


def test_metrics_of_one_name_are_told_and_kept_apart(caplog):
    names = ["valid", "valid", "valid (2)", "fid", "valid"]
    found = with_distinct_names([Metric(name, value, "") for value, name in enumerate(names)])
    assert [metric.name for metric in found] == ["valid", "valid (3)", "valid (2)", "fid", "valid (4)"]
    assert [metric.value for metric in found] == [0, 1, 2, 3, 4]
    assert "two metrics have the name 'valid'" in caplog.text
