"""The plan of an evolutionary search, on data whose children have a known distribution."""

import math
import statistics

import pytest
import torch

from diffcore.sampling.evolution import LEAST_SHARE, STRENGTHS, Candidate, best, children, standing


def search(rounds, count, seed, score=float, strengths=STRENGTHS):
    """A search in closed form: of x in N(0, 1), a child of strength s is a^2 x + sqrt(1 - a^4) z, a = cos(pi s / 2)."""
    generator = torch.Generator().manual_seed(seed)
    found, places = [], []
    for turn in range(1, rounds + 1):
        for child in children(found, count, strengths):
            gain = math.cos(math.pi * child.strength / 2) ** 2
            centre = 0.0 if child.parent is None else places[child.parent]
            noise = torch.randn((), generator=generator, dtype=torch.float64).item()
            places.append(gain * centre + math.sqrt(1 - gain**2) * noise)
            value = score(places[-1])
            found.append(Candidate(len(found), turn, child.parent, child.strength, value))
    return found, places


def test_children_have_the_mean_of_the_breeder_s_equation():
    """The best 5 % of N(0, 1) have the mean phi(z) / 0.05 = 2.063, and their children of strength s a^2 of that."""
    found, _ = search(2, 6000, 0, strengths=(0.3, 0.7))
    assert statistics.mean(each.score for each in best(found[:6000], 300)) == pytest.approx(2.063, abs=0.04)
    for strength in (0.3, 0.7):
        own = [each.score for each in found[6000:] if each.strength == strength]
        gain = math.cos(math.pi * strength / 2) ** 2
        assert len(own) == 3000
        assert statistics.mean(own) == pytest.approx(2.063 * gain, abs=0.08)


def test_a_search_beats_the_best_of_as_many_free_samples():
    """The best of 1,000 of N(0, 1) has the mean 3.24; beyond 5 there is one of 3.5 million."""
    free = [max(torch.randn(1000, generator=torch.Generator().manual_seed(seed))).item() for seed in range(10)]
    searched = [best(search(5, 200, seed)[0], 1)[0].score for seed in range(10)]
    assert statistics.mean(free) == pytest.approx(3.24, abs=0.25)
    assert statistics.mean(searched) > 4.5
    assert min(searched) > statistics.mean(free)


def test_strengths_that_succeed_are_used_more():
    """Where all is lost but near the best, small steps win; where the score is noise, no step is better."""
    found, _ = search(8, 100, 1)
    last = [child.strength for child in children(found, 700)]
    shares = [last.count(strength) / 700 for strength in STRENGTHS]
    assert min(shares) >= LEAST_SHARE / len(STRENGTHS) - 1 / 700  # none is given up
    assert shares[0] > 2 * shares[-1]
    assert sum(map(last.count, STRENGTHS)) == 700
    assert last == sorted(last)


def test_the_plan_is_a_function_of_the_candidates():
    found, _ = search(3, 50, 0)
    assert children(found, 50) == children(list(reversed(found)), 50)
    assert {child.parent for child in children([], 5)} == {None}
    free = [child for child in children(found, 50) if child.strength == 1]
    assert free
    assert all(child.parent is None for child in free)


def test_candidates_that_pass_are_better_and_equal_ones_count_once():
    def candidate(number, score, failed=0, identity=None):
        return Candidate(number, 1, None, 1.0, score, failed, identity)

    some = [
        candidate(0, None),
        candidate(1, 3.0, 1),
        candidate(2, 1.0, 0, "a"),
        candidate(3, 2.0, 0, "b"),
        candidate(4, 2.0, 0, "b"),
        candidate(5, 9.0, 2),
        candidate(6, None, 1),
    ]
    assert [each.number for each in best(some, 7)] == [3, 2, 0, 1, 5, 6]
    assert [each.number for each in best(some, 1)] == [3]


def test_a_group_shares_its_parent_and_its_strength():
    found, _ = search(3, 50, 0)
    plan = children(found, 60, group=4)
    assert len(plan) == 60
    assert all(len({*plan[i : i + 4]}) == 1 for i in range(0, 60, 4))


def test_the_standing_of_a_candidate():
    """-log of the share of the others that are better; those that fail conditions are worse than all that do not."""
    others = [Candidate(i, 1, None, 1.0, score) for i, score in enumerate([3.0, 1.0, None])]
    of = standing([*others, Candidate(3, 1, None, 1.0, None, failed=2)])

    def share(score, failed=0):
        return math.exp(-of(Candidate(9, 2, None, 1.0, score, failed)))

    assert share(4.0) == pytest.approx(1 / 5)
    assert share(3.0) == pytest.approx(1 / 5)  # the other of 3 is not better
    assert share(2.0) == pytest.approx(2 / 5)
    assert share(None) == pytest.approx(3 / 5)
    assert share(None, 2) == pytest.approx(4 / 5)
    assert share(None, 3) == pytest.approx(1)
