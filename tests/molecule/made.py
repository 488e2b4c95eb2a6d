"""Molecules made by hand, and by RDKit."""

import numpy
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from diffcore_molecule.chemistry.molecules import Molecule, from_rdkit, identity, sanitised, to_rdkit
from diffcore_molecule.data.collection import collect
from diffcore_molecule.data.examples import padded


def by_hand(symbols, bonds, charges=None, positions=None):
    """A molecule of `symbols`, and bonds as (first, second, order); places are of no matter unless given."""
    n = len(symbols)
    matrix = numpy.zeros((n, n), dtype=numpy.uint8)
    for first, second, order in bonds:
        matrix[first, second] = matrix[second, first] = order
    number = Chem.GetPeriodicTable().GetAtomicNumber
    return Molecule(
        numpy.array([number(symbol) for symbol in symbols], dtype=numpy.uint8),
        numpy.array(charges or [0] * n, dtype=numpy.int8),
        matrix,
        numpy.array(positions if positions is not None else _apart(n), dtype=numpy.float32).reshape(n, 3),
    )


def _apart(n):
    """A place for each of n atoms, no two in one."""
    return [(1.5 * i, i * i % 7, i * i * i % 5) for i in range(n)]


def star(centre, leaf, n, charge=0):
    return by_hand([centre, *[leaf] * n], [(0, i, 1) for i in range(1, n + 1)], [charge, *[0] * n])


def conformer(smiles, hydrogens=True, seed=1):
    """The molecule of a SMILES with a place for each atom, by ETKDG and MMFF."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    AllChem.MMFFOptimizeMolecule(mol, maxIters=2000)
    return from_rdkit(mol, hydrogens)


def batch_of(molecules):
    """Molecules as one padded batch; what are atoms stays so."""
    return padded(collect(molecules), numpy.arange(len(molecules)), hydrogens=True)


def examples(molecules, hydrogens, properties=None):
    """Molecules as a data set has them."""
    batch = batch_of(molecules)
    batch["properties"] = torch.zeros(len(molecules), 0) if properties is None else properties.float()
    batch["identity"] = torch.tensor([identity(sanitised(to_rdkit(m, hydrogens))) for m in molecules])
    return batch
