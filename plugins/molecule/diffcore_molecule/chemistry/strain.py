"""The strain energy of positions: how much energy a force field gains by relaxing them."""

import math

from rdkit import Chem
from rdkit.Chem import AllChem

from diffcore_molecule.chemistry.hydrogens import STEPS, with_hydrogens


def strain_energy(mol: Chem.Mol) -> float:
    """E(positions) - E(relaxed) in kcal/mol by MMFF94 (Halgren 1996); NaN if it has no parameters for the molecule.

    `mol` is sanitised and has a conformer. Implicit hydrogens are first placed where they have no strain
    (`with_hydrogens`). The relaxed positions are the minimum nearest to the given ones.
    """
    whole = with_hydrogens(mol)
    parameters = AllChem.MMFFGetMoleculeProperties(whole)
    if parameters is None:
        return math.nan
    field = AllChem.MMFFGetMoleculeForceField(whole, parameters)
    before = field.CalcEnergy()
    field.Minimize(maxIts=STEPS)
    return float(before - field.CalcEnergy())
