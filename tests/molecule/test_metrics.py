import hashlib
import math

import numpy
import pytest
from rdkit import Chem

from diffcore_molecule.chemistry.molecules import Molecule, identity, sanitised, to_rdkit
from diffcore_molecule.evaluation import metrics, plausibility
from diffcore_molecule.evaluation.metrics import Measurements, edm_valences, stable_atoms, strict_valences
from tests.molecule.made import by_hand, conformer, star

METHANE = star("C", "H", 4)
RADICAL = star("C", "H", 3)
AMMONIUM = star("N", "H", 4, charge=1)
FIVE = star("C", "H", 5)
TWO = by_hand(["C", *"HHHH", "C", *"HHHH"], [(0, i, 1) for i in range(1, 5)] + [(5, i, 1) for i in range(6, 10)])
BENZENE = by_hand(
    ["C"] * 6 + ["H"] * 6, [(i, (i + 1) % 6, 1 + i % 2) for i in range(6)] + [(i, i + 6, 1) for i in range(6)]
)
METHIDE = star("C", "H", 3, charge=-1)
NITROMETHANE = by_hand(
    ["C", "H", "H", "H", "N", "O", "O"],
    [(0, 1, 1), (0, 2, 1), (0, 3, 1), (0, 4, 1), (4, 5, 2), (4, 6, 1)],
    [0, 0, 0, 0, 1, 0, -1],
)
SULFANE = star("S", "H", 2)


@pytest.mark.parametrize(
    ("molecule", "strict", "edm", "valid"),
    [
        (METHANE, True, True, True),
        (RADICAL, False, False, True),
        (AMMONIUM, True, False, True),
        (FIVE, False, False, False),
        (TWO, True, True, False),
        (BENZENE, True, True, True),
        (METHIDE, True, False, True),
        (NITROMETHANE, True, False, True),
        (SULFANE, True, False, True),
    ],
    ids=["CH4", "CH3 radical", "NH4+", "CH5", "two CH4", "C6H6", "CH3-", "CH3NO2", "H2S"],
)
def test_chemistry_with_explicit_hydrogens(molecule, strict, edm, valid):
    assert stable_atoms(molecule, strict_valences).all() == strict
    assert stable_atoms(molecule, edm_valences).all() == edm
    assert (metrics.validated(molecule, hydrogens=True) is not None) == valid


def test_only_the_wrong_atom_is_unstable():
    assert stable_atoms(RADICAL, strict_valences).tolist() == [False, True, True, True]
    assert stable_atoms(FIVE, edm_valences).tolist() == [False, *[True] * 5]


def test_edm_counts_the_largest_piece_as_valid():
    assert metrics.edm_validated(TWO, True).GetNumAtoms() == 5
    water_and_ethane = by_hand(["O", "C", "C"], [(1, 2, 1)])
    assert metrics.validated(water_and_ethane, False) is None
    assert Chem.MolToSmiles(metrics.edm_validated(water_and_ethane, False)) == "CC"
    assert metrics.edm_validated(FIVE, True) is None


def test_a_charge_outside_the_table_is_not_stable():
    assert not stable_atoms(star("C", "H", 4, charge=2), strict_valences)[0]
    assert not stable_atoms(star("Xe", "F", 2), strict_valences)[0]


def test_implicit_hydrogens_add_to_the_valence_and_do_not_reduce_it():
    carbon, crowded = by_hand(["C", "C"], [(0, 1, 2)]), star("C", "F", 5)
    assert stable_atoms(carbon, strict_valences, hydrogens=False).all()
    assert not stable_atoms(carbon, strict_valences, hydrogens=True).any()
    assert stable_atoms(crowded, strict_valences, hydrogens=False).tolist() == [False, *[True] * 5]
    assert not stable_atoms(star("C", "F", 4, charge=1), strict_valences, hydrogens=False)[0]
    assert metrics.validated(carbon, False) is not None
    assert metrics.validated(crowded, False) is None


def test_nothing_is_not_a_molecule():
    nothing = by_hand([], [])
    assert metrics.validated(nothing, True) is None
    assert metrics.edm_validated(nothing, True) is None
    assert metrics.validity([]) == metrics.Validity(0, 0, 0, 0, 0)


def test_positions_that_are_not_finite_are_not_valid():
    broken = Molecule(METHANE.numbers, METHANE.charges, METHANE.bonds, METHANE.positions * numpy.float32("nan"))
    assert metrics.validated(broken, True) is None
    assert metrics.edm_validated(broken, True) is None


def test_identity_does_not_depend_on_hydrogens_order_of_atoms_or_chirality():
    for smiles in ("CCO", "c1cc[nH]c1", "C[N+](=O)[O-]", "C", "O=C([O-])C[NH3+]"):
        explicit = sanitised(to_rdkit(conformer(smiles), True))
        implied = sanitised(to_rdkit(conformer(smiles, hydrogens=False), False))
        assert identity(explicit) == identity(implied) == identity(Chem.MolFromSmiles(smiles)), smiles
    assert identity(Chem.MolFromSmiles("OCC")) == identity(Chem.MolFromSmiles("CCO"))
    assert identity(Chem.MolFromSmiles("C[C@H](O)F")) == identity(Chem.MolFromSmiles("C[C@@H](O)F"))
    assert identity(Chem.MolFromSmiles("CCO")) != identity(Chem.MolFromSmiles("COC"))
    digest = hashlib.blake2b(b"CCO", digest_size=8).digest()
    assert identity(Chem.MolFromSmiles("CCO")) in {int.from_bytes(digest, end) >> 1 for end in ("little", "big")}


def test_fractions_are_of_all_samples():
    mols = [Chem.MolFromSmiles(smiles) for smiles in ("CCO", "OCC", "CC", "C")] + [None]
    found = metrics.validity(mols, {identity(mols[3]), 17})
    assert (found.valid, found.unique, found.novel) == (4 / 5, 3 / 4, 2 / 3)
    assert (found.valid_unique, found.valid_unique_novel) == (3 / 5, 2 / 5)
    assert metrics.validity([None, None]).valid_unique_novel == 0


def normal(n, seed, shift=0.0):
    return numpy.random.default_rng(seed).normal(size=n) + shift


def test_distance_of_a_shifted_distribution_is_the_shift():
    kinds, owners = numpy.arange(900) % 3, numpy.arange(900)
    real = Measurements(normal(900, 0), kinds, owners)
    assert metrics.distance(Measurements(real.values + 0.25, kinds, owners), real) == pytest.approx(0.25)
    assert metrics.relative_distance(
        Measurements(real.values - 2 * real.values.std(), kinds, owners), real
    ) == pytest.approx(2)
    assert metrics.distance(real, real) == 0


def test_distance_weights_kinds_by_their_fraction_in_the_reference():
    real = Measurements(numpy.zeros(4), numpy.array([0, 0, 0, 1]), numpy.arange(4))
    moved = Measurements(numpy.array([1.0, 1.0, 9.0]), numpy.array([0, 1, 2]), numpy.arange(3))
    assert metrics.distance(moved, real) == pytest.approx(1)
    moved = Measurements(numpy.array([1.0, 5.0]), numpy.array([0, 1]), numpy.arange(2))
    assert metrics.distance(moved, real) == pytest.approx(0.75 * 1 + 0.25 * 5)
    assert math.isnan(metrics.distance(Measurements(numpy.ones(1), numpy.array([7]), numpy.zeros(1, int)), real))


def test_total_variation_of_kinds():
    real = Measurements(numpy.zeros(4), numpy.array([0, 0, 1, 1]), numpy.arange(4))
    other = Measurements(numpy.zeros(2), numpy.array([0, 2]), numpy.arange(2))
    assert metrics.total_variation(other, real) == pytest.approx(0.5)
    assert metrics.total_variation(real, real) == 0


def test_halves_of_one_distribution_are_near_and_have_no_molecule_in_common():
    owners = numpy.repeat(numpy.arange(500), 2)
    real = Measurements(normal(1000, 0), numpy.zeros(1000, int), owners)
    assert 0.01 < metrics.halves(metrics.distance, real) < 0.15
    seen = []
    metrics.halves(lambda a, b: seen.append((set(a.owners), set(b.owners))) or 0.0, real, splits=2)
    assert all(not a & b and len(a | b) == 500 for a, b in seen)
    assert seen[0] != seen[1]


def test_lengths_and_angles_are_those_of_the_geometry():
    angle = math.radians(104.5)
    positions = [[0, 0, 0], [0.96, 0, 0], [0.97 * math.cos(angle), 0.97 * math.sin(angle), 0]]
    water = by_hand(["O", "H", "H"], [(0, 1, 1), (0, 2, 1)], positions=positions)
    ethane = conformer("CC")
    lengths = metrics.bond_lengths([water, ethane])
    assert sorted(lengths.values[lengths.owners == 0]) == pytest.approx([0.96, 0.97])
    assert len(lengths.values) == 2 + 7
    assert len(set(lengths.kinds)) == 3  # O-H, C-H, C-C
    angles = metrics.bond_angles([water, ethane])
    assert angles.values[angles.owners == 0] == pytest.approx([104.5], abs=1e-4)
    assert angles.kinds[angles.owners == 1].tolist() == [6] * 12  # six pairs of four bonds, twice
    assert angles.values[angles.owners == 1] == pytest.approx(109.5, abs=2.5)


@pytest.mark.parametrize("smiles", ["CCO", "CC(C)(C)C", "c1ccccc1O", "C1CC2CC1C2"])
def test_angles_are_rdkit_s(smiles):
    from rdkit.Chem import rdMolTransforms

    molecule = conformer(smiles)
    mol = to_rdkit(molecule, True)
    expected = [
        rdMolTransforms.GetAngleDeg(mol.GetConformer(), *match)
        for match in mol.GetSubstructMatches(Chem.MolFromSmarts("*~*~*"), uniquify=True, maxMatches=10**5)
    ]
    # A ring of three atoms would match only once; these molecules have none.
    assert sorted(metrics.bond_angles([molecule]).values) == pytest.approx(sorted(expected), abs=1e-3)


def test_rings_and_sizes():
    molecules = [conformer(smiles) for smiles in ("CC", "c1ccccc1", "C1CC2CC1C2")]
    assert metrics.rings([*molecules, TWO]).values.tolist() == [0, 1, 2, 0]
    assert metrics.sizes(molecules).values.tolist() == [8, 12, 16]


def test_no_molecules_have_no_measurements():
    for measure in (metrics.bond_lengths, metrics.bond_angles, metrics.elements, metrics.sizes, metrics.rings):
        nothing = measure([])
        assert len(nothing.values) == 0
        assert math.isnan(metrics.distance(nothing, measure([METHANE])))
        assert math.isnan(metrics.total_variation(nothing, measure([METHANE])))
    assert metrics.per_molecule([1.0, math.nan, 3.0, -math.inf]).owners.tolist() == [0, 2]


def test_plausible_molecules_by_posebusters():
    pytest.importorskip("posebusters")
    ethanol, implied = conformer("CCO"), conformer("CCO", hydrogens=False)
    squeezed = Molecule(ethanol.numbers, ethanol.charges, ethanol.bonds, ethanol.positions * 0.5)
    assert plausibility.plausible(metrics.validated(ethanol, True))
    assert plausibility.plausible(metrics.validated(implied, False))
    assert not plausibility.plausible(metrics.validated(squeezed, True))
    assert not plausibility.plausible(metrics.validated(RADICAL, True))
