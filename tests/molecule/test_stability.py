"""Stability with hydrogens placed, compared with EDM's own way of counting, written anew as its authors describe it."""

import itertools
import math
from dataclasses import replace

import numpy
import pytest
from rdkit import Chem

from diffcore_molecule.chemistry.molecules import from_rdkit
from diffcore_molecule.data import datasets
from diffcore_molecule.data.collection import molecules_of, subset, without_hydrogens
from diffcore_molecule.evaluation.stability import placed, placed_stability
from tests.molecule.made import by_hand, conformer

SINGLE = {"HH": 74, "CH": 109, "HN": 101, "HO": 96, "FH": 92, "CC": 154, "CN": 147, "CO": 143, "CF": 135}
SINGLE |= {"NN": 145, "NO": 140, "FN": 136, "OO": 148, "FO": 142, "FF": 142}
DOUBLE = {"CC": 134, "CN": 129, "CO": 120, "NN": 125, "NO": 121, "OO": 121}
TRIPLE = {"CC": 120, "CN": 116, "CO": 113, "NN": 110}
VALENCE = {"H": 1, "C": 4, "N": 3, "O": 2, "F": 1}
"""Bond lengths in pm and valences of Hoogeboom et al. 2022, tables 4 to 6; the margins there are 10, 5 and 3 pm."""


def stable_as_edm_counts(symbols, positions):
    """Whether each atom is stable: a loop over pairs of atoms, with bonds from the three tables alone."""
    bonds = [0] * len(symbols)
    for i, j in itertools.combinations(range(len(symbols)), 2):
        pair = "".join(sorted(symbols[i] + symbols[j]))
        distance = 100 * math.dist(positions[i], positions[j])
        order = 0
        if distance < SINGLE[pair] + 10:
            order = 1
            if pair in DOUBLE and distance < DOUBLE[pair] + 5:
                order = 2
                if pair in TRIPLE and distance < TRIPLE[pair] + 3:
                    order = 3
        bonds[i] += order
        bonds[j] += order
    return [VALENCE[symbol] == bond for symbol, bond in zip(symbols, bonds, strict=True)]


@pytest.fixture(scope="module")
def real():
    """Some molecules of QM9 with their hydrogens, some of which are not stable by distances."""
    return list(molecules_of(subset(datasets._embedded().collection, 0, 100), hydrogens=True))


def values(metrics):
    return {metric.name: metric.value for metric in metrics}


def test_the_figures_are_those_of_edm_s_own_loop(real):
    samples = [without_hydrogens(molecule) for molecule in real]
    stretched = [replace(m, positions=m.positions * (1 + 0.004 * k)) for k, m in enumerate(samples[:25])]
    wrong = by_hand(["C", *"FFFFF"], [(0, k, 1) for k in range(1, 6)])  # RDKit cannot sanitise it
    samples = [*samples[25:], *stretched, wrong]
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    atoms = []
    for sample in samples:
        mol = placed(sample)
        whole = sample if mol is None else from_rdkit(mol, hydrogens=True)
        symbols = [symbol(int(number)) for number in whole.numbers]
        atoms.append(stable_as_edm_counts(symbols, whole.positions.tolist()))
    found = values(placed_stability(samples, real[:2]))
    assert found["placed_lookup_stable_edm"] == pytest.approx(numpy.mean([all(each) for each in atoms]))
    assert found["placed_lookup_stable_atoms_edm"] == pytest.approx(numpy.mean(list(itertools.chain(*atoms))))
    assert 0.5 < found["placed_lookup_stable_edm"] < 0.95
    assert found["placed_stable_strict"] == pytest.approx(100 / 101)


def test_placing_hydrogens_costs_real_molecules_no_stability(real):
    """Bonds that the table misjudges are those of other atoms, so DFT's hydrogens and placed ones give one figure."""
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    by_dft = [all(stable_as_edm_counts([symbol(int(n)) for n in m.numbers], m.positions.tolist())) for m in real]
    heavy = [without_hydrogens(molecule) for molecule in real]
    found = values(placed_stability(heavy, heavy[:2]))
    assert found["placed_lookup_stable_edm"] == pytest.approx(numpy.mean(by_dft), abs=0.011)
    assert found["placed_contacts"] <= 0.01


def test_hydrogens_of_ions_are_placed_and_edm_s_table_has_no_charges():
    ammonium = conformer("C[NH3+]", hydrogens=False)
    found = values(placed_stability([ammonium], [conformer("CC", hydrogens=False)]))
    assert found["placed_stable_strict"] == found["placed_stable_atoms_strict"] == 1
    assert found["placed_lookup_stable_edm"] == 0
    assert found["placed_lookup_stable_atoms_edm"] == pytest.approx(7 / 8)
