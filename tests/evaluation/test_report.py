"""The curve of the report."""

import re

import pytest

from diffcore.evaluation.report import curve


class Counted(float):
    """A number that counts how often it is compared with others."""

    count = 0

    def __lt__(self, other):
        Counted.count += 1
        return float.__lt__(self, other)

    def __gt__(self, other):
        Counted.count += 1
        return float.__gt__(self, other)


def comparisons(points):
    Counted.count = 0
    curve([(Counted(k), Counted(k % 7)) for k in range(points)], "steps", "loss")
    return Counted.count


def test_the_work_for_a_curve_grows_with_its_points():
    assert comparisons(2000) < 12 * comparisons(200)


def test_a_curve_is_scaled_to_its_axes():
    svg = curve([(10, 3.0), (20, 1.0), (30, 2.0)], "steps", "loss")
    line = re.search(r'points="([^"]*)"', svg)[1]
    places = [tuple(map(float, point.split(","))) for point in line.split()]
    assert [x for x, _ in places] == pytest.approx([70, 460, 850])
    assert [y for _, y in places] == pytest.approx([10, 240, 125])
    assert all(f">{text}<" in svg for text in ("3", "1", "10", "30 steps", "loss"))
