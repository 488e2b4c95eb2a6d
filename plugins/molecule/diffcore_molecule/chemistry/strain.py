"""The strain energy of positions: how much energy a force field gains by relaxing them."""

import math

from rdkit import Chem
from rdkit.Chem import AllChem

STEPS = 2000
"""The largest number of steps of a relaxation."""


def strain_energy(mol: Chem.Mol) -> float:
    """E(positions) - E(relaxed) in kcal/mol by MMFF94 (Halgren 1996); NaN if it has no parameters for the molecule.

    `mol` is sanitised and has a conformer. Implicit hydrogens are added, with positions that are relaxed before
    E(positions) is taken, while all other atoms stay. The relaxed positions are the minimum nearest to the given ones.
    """
    implicit = any(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    whole = Chem.AddHs(mol, addCoords=True)
    parameters = AllChem.MMFFGetMoleculeProperties(whole)
    if parameters is None:
        return math.nan
    if implicit:
        field = AllChem.MMFFGetMoleculeForceField(whole, parameters)
        for index in range(mol.GetNumAtoms()):
            field.AddFixedPoint(index)
        field.Minimize(maxIts=STEPS)
    field = AllChem.MMFFGetMoleculeForceField(whole, parameters)
    before = field.CalcEnergy()
    field.Minimize(maxIts=STEPS)
    return float(before - field.CalcEnergy())
