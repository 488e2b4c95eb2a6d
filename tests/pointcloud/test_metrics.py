import itertools
import math

import pytest
import torch

from diffcore_pointcloud.evaluation import metrics
from diffcore_pointcloud.geometry.kernels import backend
from diffcore_pointcloud.geometry.transport import earth_movers, sinkhorn


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Distances of two clouds.


def naive_chamfer(a, b):
    return sum(
        sum(min(math.dist(p, q) ** 2 for q in second) for p in first) / len(first) for first, second in ((a, b), (b, a))
    )


def test_chamfer_by_products_is_that_of_a_loop():
    a, b = normal(9, 3), normal(4, 7, 3, seed=1)
    expected = [naive_chamfer(a.tolist(), other.tolist()) for other in b]
    torch.testing.assert_close(metrics.chamfer(a, b), torch.tensor(expected, dtype=torch.float64))


def test_chamfer_in_float32_is_near_that_in_float64():
    """Also far from the origin, as the clouds are centred first."""
    a, b = normal(20, 200, 3), normal(15, 200, 3, seed=1)
    expected = metrics.pairwise(a, b)
    for offset in (0.0, 30.0):
        found = metrics.pairwise((a + offset).float(), (b + offset).float())
        torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=0)
    torch.testing.assert_close(backend("plain").chamfer(a[:15], b), expected.diagonal())


def test_chamfer_of_a_small_translation_in_float32():
    """Each point is moved by 0.01, less than half the distance to the next: the result is twice the square, 2e-4."""
    grid = torch.cartesian_prod(*[torch.linspace(-1.5, 1.5, 7)] * 3)
    moved = grid + torch.tensor([0.0, 0.006, 0.008])
    assert metrics.pairwise(grid[None], moved[None]).item() == pytest.approx(2e-4, rel=1e-2)
    assert metrics.pairwise(grid[None], grid[None]).item() == pytest.approx(0, abs=2e-6)


def test_a_translation_costs_its_length():
    a = normal(2, 30, 3)
    step = torch.tensor([0.3, -0.4, 1.2])
    torch.testing.assert_close(earth_movers(a, a[:, torch.randperm(30)] + step), torch.full((2,), 1.3).double())


def test_earth_movers_is_the_minimum_over_all_matchings():
    a, b = normal(6, 5, 3), normal(6, 5, 3, seed=1)
    expected = [
        min(
            sum(math.dist(p, y[j]) for p, j in zip(x, order, strict=True)) / 5
            for order in itertools.permutations(range(5))
        )
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    torch.testing.assert_close(earth_movers(a, b), torch.tensor(expected, dtype=torch.float64))


def test_clouds_of_different_sizes_cannot_be_matched():
    with pytest.raises(ValueError, match="equally many points"):
        earth_movers(normal(1, 5, 3), normal(1, 6, 3))


def test_sinkhorn_converges_to_the_exact_distance_from_above():
    a, b = normal(3, 40, 3), normal(3, 40, 3, seed=1) * 0.7 + 0.3
    exact = earth_movers(a, b)
    errors = [(sinkhorn(a, b, epsilon, 1000) / exact - 1).max().item() for epsilon in (1, 0.1, 0.01, 0.001)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[2] < 0.01
    assert 0 <= errors[3] < 1e-3


def test_sinkhorn_returns_a_plan_before_it_converges():
    """No plan costs less than the best one: also after few iterations, and in float32."""
    a, b = normal(5, 30, 3), normal(5, 30, 3, seed=1)
    exact = earth_movers(a, b)
    for iterations in (2, 10, 100):
        assert (sinkhorn(a.float(), b.float(), 0.005, iterations) > exact * (1 - 1e-5)).all()


def test_sinkhorn_of_clouds_of_different_sizes():
    """Repeating each point of `a` does not change the weights."""
    a, b = normal(2, 12, 3), normal(2, 24, 3, seed=1)
    exact = earth_movers(a.repeat(1, 2, 1), b)
    torch.testing.assert_close(sinkhorn(a, b, 0.002, 4000), exact, rtol=1e-3, atol=0)


# Matrices.


@pytest.mark.parametrize("distance", [metrics.chamfer, metrics.earth_mover], ids=["chamfer", "earth mover"])
def test_all_pairs_are_those_of_a_loop(distance):
    a, b = normal(4, 8, 3), normal(5, 8, 3, seed=1)
    of_two = (
        naive_chamfer if distance is metrics.chamfer else lambda x, y: earth_movers(*torch.tensor([[x], [y]]).double())
    )
    for second in (b, None):
        other = a if second is None else second
        expected = torch.tensor([[float(of_two(x, y)) for y in other.tolist()] for x in a.tolist()]).double()
        found = metrics.pairwise(a, second, distance)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_blocks_do_not_change_distances(monkeypatch):
    a, b = normal(3, 20, 3), normal(10, 20, 3, seed=1)
    expected = metrics.pairwise(a, b)
    monkeypatch.setattr(metrics, "_BLOCK", {"cpu": 900})
    torch.testing.assert_close(metrics.pairwise(a, b), expected, rtol=1e-12, atol=0)


# Metrics of sets.

ACROSS = torch.tensor([[1.0, 5, 4], [2, 6, 3], [9, 2, 7]])
"""Samples in rows. Nearest references: 0, 0, 1. Nearest samples: 0 (1), 2 (2), 1 (3)."""


def test_mmd_and_coverage_by_hand():
    assert metrics.mmd(ACROSS) == pytest.approx((1 + 2 + 3) / 3)
    assert metrics.coverage(ACROSS) == pytest.approx(2 / 3)
    assert metrics.coverage(torch.ones(3, 4)) == 0.25  # a sample covers one reference, however many are equally near


def test_one_nna_by_hand():
    """Samples: 0.5 < 1 and 0.5 < 2 are right, 8 > 2 is wrong. References: 3 > 1 and 4 > 2 are wrong, 3 = 3 is half."""
    samples = torch.tensor([[0, 0.5, 9], [0.5, 0, 8], [9, 8, 0]])
    references = torch.tensor([[0.0, 4, 3], [4, 0, 6], [3, 6, 0]])
    assert metrics.one_nna(samples, ACROSS, references) == pytest.approx(2.5 / 6)


def naive_one_nna(samples, references):
    everything = [(cloud, 0) for cloud in samples.tolist()] + [(cloud, 1) for cloud in references.tolist()]
    right = 0
    for i, (cloud, kind) in enumerate(everything):
        others = [(naive_chamfer(cloud, other), its) for j, (other, its) in enumerate(everything) if j != i]
        right += min(others)[1] == kind
    return right / len(everything)


def one_nna(a, b, distance=metrics.chamfer):
    matrices = (
        metrics.pairwise(a, None, distance),
        metrics.pairwise(a, b, distance),
        metrics.pairwise(b, None, distance),
    )
    return metrics.one_nna(*matrices)


def test_one_nna_is_that_of_a_loop():
    a, b = normal(8, 6, 3), normal(8, 6, 3, seed=1) * 1.3
    assert one_nna(a, b) == pytest.approx(naive_one_nna(a, b))


def shapes(n, seed, stretch=1.0):
    """Random ellipsoids."""
    return (
        normal(n, 32, 3, seed=seed) * (1 + torch.rand(n, 1, 3, generator=torch.Generator().manual_seed(seed))) * stretch
    )


def test_one_nna_of_equal_different_and_copied_sets():
    a, b = shapes(150, 0), shapes(150, 1)
    assert one_nna(a, b) == pytest.approx(0.5, abs=0.12)  # 0.5 +- 4 sqrt(0.25 / 300)
    assert one_nna(a, b + 10) == 1
    assert 0.65 < one_nna(a, b * 1.5) < 1
    assert one_nna(a, a + 1e-9 * normal(*a.shape)) == 0
    assert one_nna(a[:40, :20], b[:40, :20], metrics.earth_mover) == pytest.approx(0.5, abs=0.2)
    assert one_nna(a[:10, :20], b[:10, :20] + 10, metrics.earth_mover) == 1


def test_one_nna_of_equal_clouds_is_nearly_half():
    """All clouds are equally near: n - 1 of 2 n - 1 are in the same set, which is nearly half."""
    same = torch.zeros(10, 10)
    assert metrics.one_nna(same, same, same) == pytest.approx(9 / 19)


def test_one_nna_needs_equal_numbers():
    with pytest.raises(ValueError, match="sets of one size; there are 2 and 3"):
        metrics.one_nna(torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(3, 3))
