import tarfile

import numpy
import pytest

from diffcore_molecule.chemistry.bond_inference import infer_bonds, infer_bonds_with_rdkit, with_inferred_bonds
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.evaluation.metrics import edm_valences, stable_atoms
from tests.molecule.made import conformer


@pytest.mark.parametrize("smiles", ["CCO", "C#C", "C#N", "C=C", "CN", "CF"])
def test_inference_finds_the_bonds_of_small_molecules(smiles):
    molecule = conformer(smiles)
    bondless = Molecule(molecule.numbers, molecule.charges + 1, molecule.bonds * 0, molecule.positions)
    found = with_inferred_bonds(bondless)
    assert numpy.array_equal(found.bonds, molecule.bonds)
    assert not found.charges.any()
    assert numpy.array_equal(found.positions, molecule.positions)


@pytest.mark.parametrize(
    ("numbers", "positions", "bonds"),
    [
        ([8, 6, 8], [-1.162, 0, 1.162], [[0, 2, 0], [2, 0, 2], [0, 2, 0]]),
        ([7, 7], [0, 1.098], [[0, 3], [3, 0]]),
        ([1, 6, 7], [-1.066, 0, 1.153], [[0, 1, 0], [1, 0, 3], [0, 3, 0]]),
    ],
    ids=["CO2", "N2", "HCN"],
)
def test_bonds_of_measured_geometries(numbers, positions, bonds):
    """Linear molecules with experimental bond lengths (CRC Handbook)."""
    positions = numpy.array(positions, dtype=float)[:, None] * numpy.array([0.6, 0, 0.8])
    assert infer_bonds(numpy.array(numbers), positions).tolist() == bonds


@pytest.mark.parametrize(
    ("pair", "threshold", "above", "below"),
    [
        ((6, 6), 1.64, 0, 1),
        ((6, 6), 1.39, 1, 2),
        ((6, 6), 1.23, 2, 3),
        ((7, 6), 1.19, 2, 3),
        ((8, 7), 1.50, 0, 1),
        ((1, 1), 0.84, 0, 1),
        ((15, 16), 1.91, 1, 2),
        ((53, 53), 2.76, 0, 1),
    ],
)
def test_thresholds_are_lengths_plus_margins(pair, threshold, above, below):
    for distance, order in ((threshold + 0.002, above), (threshold - 0.002, below)):
        positions = numpy.array([[0, 0, 0], [0, distance, 0]])
        assert infer_bonds(numpy.array(pair), positions).tolist() == [[0, order], [order, 0]]


def test_pairs_of_elements_outside_the_table_are_not_bonded():
    assert not infer_bonds(numpy.array([2, 6, 5]), numpy.zeros((3, 3))).any()
    assert infer_bonds(numpy.array([], dtype=int), numpy.zeros((0, 3))).shape == (0, 0)


def test_molecules_of_qm9_with_inferred_bonds_are_mostly_stable(real_data):
    """The published fraction for QM9 is 95.2 % (Hoogeboom et al. 2022, table 1); margins were tuned to increase it."""
    path = real_data / "qm9" / "dsgdb9nsd.xyz.tar.bz2"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    numbers = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
    stable = []
    with tarfile.open(path) as archive:
        for index, member in enumerate(archive):
            if index == 3000:
                break
            lines = archive.extractfile(member).read().decode().replace("*^", "e").splitlines()
            atoms = [line.split() for line in lines[2 : 2 + int(lines[0])]]
            positions = numpy.array([[float(word) for word in atom[1:4]] for atom in atoms])
            n = len(atoms)
            molecule = Molecule(
                numpy.array([numbers[atom[0]] for atom in atoms]),
                numpy.zeros(n, int),
                numpy.zeros((n, n), int),
                positions,
            )
            stable.append(stable_atoms(with_inferred_bonds(molecule), edm_valences).all())
    assert 0.85 < numpy.mean(stable) < 0.99, numpy.mean(stable)


def test_rdkit_determines_bonds_and_charges():
    molecules = [conformer(smiles) for smiles in ("CCO", "c1ccccc1", "C[NH3+]")]
    bondless = [Molecule(m.numbers, m.charges, m.bonds * 0, m.positions) for m in molecules]
    far = Molecule(bondless[0].numbers, bondless[0].charges, bondless[0].bonds, bondless[0].positions * 9)
    *found, none = infer_bonds_with_rdkit([*bondless, far], seconds=20)
    for molecule, result in zip(molecules, found, strict=True):
        assert numpy.array_equal(result.bonds > 0, molecule.bonds > 0)
        assert result.bonds.sum() == molecule.bonds.sum()
        assert numpy.array_equal(result.charges, molecule.charges)
    assert none is None
