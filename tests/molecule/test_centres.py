"""Shapes of tetrahedral centres, contacts of atoms and stereoisomers, compared with closed forms."""

import math
from dataclasses import replace

import numpy
import pytest
from rdkit import Chem

from diffcore_molecule.chemistry.molecules import identity, sanitised, to_rdkit
from diffcore_molecule.evaluation import contacts, metrics
from diffcore_molecule.evaluation.centres import chiral_volumes, flat_centre, sp3_volumes, within_range
from diffcore_molecule.evaluation.metrics import KnownStereo, Measurements, right_handed, stereo_validity
from diffcore_molecule.output.records import record
from tests.molecule.made import by_hand, conformer

TETRAHEDRON = numpy.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
REGULAR = 4 / (3 * math.sqrt(3))
MIRROR = numpy.array([1, 1, -1], numpy.float32)


def neopentane(ends):
    """A carbon atom at the origin with four others."""
    return by_hand(["C"] * 5, [(0, k, 1) for k in range(1, 5)], positions=[[0, 0, 0], *(1.5 * ends / 3**0.5)])


def test_volumes_of_known_shapes():
    assert chiral_volumes(TETRAHEDRON[None]) == pytest.approx(numpy.full((1, 4), REGULAR))
    assert chiral_volumes(7 * TETRAHEDRON[None, :3]) == pytest.approx(REGULAR)
    assert chiral_volumes(numpy.eye(3)[None]) == pytest.approx(1)
    angles = numpy.radians([0, 120, 240])
    plane = numpy.stack([numpy.cos(angles), numpy.sin(angles), 0 * angles], 1)
    assert chiral_volumes(plane[None]) == pytest.approx(0, abs=1e-12)
    umbrella = numpy.concatenate([plane, [[0, 0, 1]]])  # three bonds in a plane, and one upright
    assert sorted(chiral_volumes(umbrella[None])[0]) == pytest.approx([0, *[math.sin(math.radians(120))] * 3])
    assert chiral_volumes(TETRAHEDRON[None] * MIRROR) == pytest.approx(chiral_volumes(TETRAHEDRON[None]))
    for order in ([1, 0, 2, 3], [3, 2, 0, 1]):
        assert chiral_volumes(umbrella[None, order]).min() == pytest.approx(0, abs=1e-12)
    inverted = numpy.array([[1.0, 0, 0.2], [-0.5, 0.9, 0.2], [-0.5, -0.9, 0.2], [0, 0, 1]])  # all on one side
    assert chiral_volumes(inverted[None]).min() < -0.2


def test_saturated_centres_and_their_kinds():
    found = sp3_volumes([neopentane(TETRAHEDRON), conformer("CC(C)O", False), conformer("CC=CN", False)])
    assert found.owners.tolist() == [1, 0]  # those with three bonds first; none is saturated in the last molecule
    assert found.values[1] == pytest.approx(REGULAR)
    assert 0.6 < found.values[0] < 0.85
    kinds = {s: set(sp3_volumes([conformer(s, False)]).kinds.tolist()) for s in ("CC(C)C", "C1CC1C", "C1CCC1C")}
    assert kinds == {"CC(C)C": {300}, "C1CC1C": {302}, "C1CCC1C": {301}}
    assert len(sp3_volumes([conformer("CC(C)C", True)]).values) == 4
    assert len(sp3_volumes([conformer("C[N+](C)(C)C", False), conformer("CN(C)C", False)]).values) == 1
    assert not len(sp3_volumes([]).values)


def test_a_flattened_centre_is_out_of_the_range_of_real_ones():
    real = sp3_volumes([conformer(s, False, seed) for s in ("CC(C)C", "CC(O)CN", "CC(C)CO") for seed in range(8)])
    flat = replace(conformer("CC(C)C", False), positions=conformer("CC(C)C", False).positions * [1, 1, 0])
    good = conformer("CC(C)O", False)
    assert within_range(sp3_volumes([good]), real) == 1
    assert within_range(sp3_volumes([good, flat]), real) == 0.5
    assert flat_centre(good, False) is None
    centre = flat_centre(neopentane(TETRAHEDRON * [1, 1, 0.1]), True)
    assert centre == 0
    assert flat_centre(neopentane(TETRAHEDRON), False) is None
    planar = by_hand(
        ["C"] * 4, [(0, k, 1) for k in (1, 2, 3)], positions=[[0, 0, 0.1], [1.5, 0, 0], [-1, 1, 0], [-1, -1, 0]]
    )
    assert record(planar, False).geometry == "the single bonds of atom 1 (C) lie in a plane"
    assert record(planar, True).geometry == ""  # a radical
    assert record(planar, False).valid


def test_ranges_are_quantiles_of_the_kind():
    values = numpy.arange(1001) / 1000
    reference = Measurements(numpy.concatenate([values, values + 5]), numpy.repeat([300, 400], 1001), numpy.zeros(2002))
    asked = numpy.array([0.004, 0.006, 0.994, 0.996, 0.5, 5.5, 5.5, 5.001])
    samples = Measurements(asked, numpy.array([300, 300, 300, 300, 400, 400, 402, 402]), numpy.zeros(8))
    assert within_range(samples, reference) == 4 / 8  # the kind 402 has no real centres, so that of 400 is used
    assert math.isnan(within_range(samples, sp3_volumes([])))


def test_contacts_are_between_atoms_more_than_two_bonds_apart():
    def bent(x):
        """Atoms in a row; the first and the last are `x` apart."""
        places = [[0, 0, 0], [0, 2, 0], [x, 2, 0], [x, 0, 0]]
        return sanitised(to_rdkit(by_hand(["F", "O", "O", "F"], [(0, 1, 1), (1, 2, 1), (2, 3, 1)], positions=places)))

    assert contacts.nearest(bent(1.7)) == pytest.approx(1.7)
    assert contacts.contact_fraction([bent(1.7), bent(1.5)]) == 0.5
    methane, ethane = (sanitised(to_rdkit(conformer(s, False))) for s in ("C", "CC"))
    assert contacts.nearest(methane) == math.inf
    assert 2.2 < contacts.nearest(ethane) < 2.7  # hydrogens of the two ends, which RDKit adds
    assert math.isnan(contacts.contact_fraction([]))


def test_mirror_images_are_two_molecules_with_stereochemistry_and_one_without():
    left = conformer("C[C@H](N)C(=O)O", False)
    right = replace(left, positions=left.positions * MIRROR)
    mols = [metrics.validated(molecule, False) for molecule in (left, right)]
    assert metrics.validity(mols).unique == 0.5
    training = [left, conformer("CCO", False), conformer("C[C@H](F)O", False)]
    known = KnownStereo(
        numpy.array([identity(metrics.validated(m, False)) for m in training]),
        lambda row: metrics.validated(training[row], False),
    )
    assert stereo_validity([*mols, None], known) == (1, 0.5)
    assert stereo_validity([mols[0], mols[0]], known) == (0.5, 0)
    assert [mol in known for mol in mols] == [True, False]
    assert {right_handed([mol]) for mol in mols} == {0, 1}
    assert right_handed(mols) == 0.5
    assert math.isnan(right_handed([Chem.MolFromSmiles("CCO")]))
    explicit = sanitised(to_rdkit(conformer("C[C@H](N)C(=O)O", True), True))
    assert identity(explicit, stereo=True) == identity(mols[0], stereo=True) != identity(mols[1], stereo=True)
