"""Different units of length in one data set are noticed, and sizes of one unit are not."""

import numpy
import pytest

from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.data import datasets
from diffcore_pointcloud.data.reader import CloudReader
from diffcore_pointcloud.data.units import mixed_units, ratio_of_units
from diffcore_pointcloud.options import CloudFacts, FileOptions

SIZES = numpy.exp(numpy.random.default_rng(0).uniform(0, numpy.log(1.6), 40))
"""Sizes that differ by up to a factor of 1.6."""


@pytest.mark.parametrize(
    ("ratio", "units"),
    [
        (1000, "millimetres to metres"), (100, "centimetres to metres"), (39.37, "inches to metres"),
        (25.4, "millimetres to inches"), (12, "inches to feet"), (3.281, "feet to metres"),
        (304.8, "millimetres to feet"),
    ],
)  # fmt: skip
def test_units_are_noticed(ratio, units):
    sizes = SIZES.copy()
    sizes[::4] *= ratio
    said = mixed_units(sizes, [0] * 40, "meshes")
    assert said.startswith("the longest side is about ")
    assert " in 10 of the meshes and " in said
    assert f"like {units};" in said
    assert "`data.normalise`" in said
    assert ratio_of_units(ratio) == units
    if ratio > 20:  # one file is enough, and a whole class too
        assert units in mixed_units([*SIZES, 1.25 * ratio], [0] * 41, "meshes")
        assert units in mixed_units(numpy.concatenate([SIZES, ratio * SIZES]), [0] * 40 + [1] * 40, "meshes")


@pytest.mark.parametrize(
    ("sizes", "labels"),
    [
        (SIZES, [0] * 40),
        (numpy.concatenate([SIZES, 3.3 * SIZES]), [0] * 40 + [1] * 40),  # beds beside lamps
        ([1, 3.3], [0, 0]),
        ([1, 1.1, 3.3], [0, 0, 0]),
        (numpy.geomspace(0.1, 100, 40), [0] * 40),
        (numpy.concatenate([SIZES, 170 * SIZES]), [0] * 80),  # no two units have this ratio
        ([], []),
        ([0.0, 1.0, 2.0], [0, 0, 0]),
    ],
)
def test_sizes_of_one_unit_are_not_noticed(sizes, labels):
    assert mixed_units(sizes, labels, "meshes") == ""


def test_the_note_of_a_data_set(tmp_path):
    generator = numpy.random.default_rng(0)
    for index in range(8):
        numpy.save(tmp_path / f"{index}.npy", generator.normal(size=(70, 3)) * (1000 if index == 5 else 1))
    data = datasets.clouds(FileOptions(root=str(tmp_path), points=64, pool=70))
    assert any(" in 1 of the clouds " in note and "like millimetres to metres" in note for note in data.notes)
    each = datasets.clouds(FileOptions(root=str(tmp_path), points=64, pool=70, normalise="each"))
    assert not any("millimetres" in note for note in each.notes)


@pytest.mark.parametrize(("factor", "said"), [(0.001, "like metres to millimetres"), (3.281, "like feet to metres"),
                                              (1, ""), (0.6, "")])  # fmt: skip
def test_the_unit_of_a_part_is_compared_with_the_data(tmp_path, caplog, factor, said):
    path = tmp_path / "part.npy"
    numpy.save(path, numpy.random.default_rng(0).uniform(-2, 2, (20, 3)) * factor)
    codec = CloudCodec(CloudFacts(points=64, centre=(0, 0, 0), scale=1))
    CloudReader(codec).read_part(path)
    assert (said in caplog.text) if said else not caplog.text
