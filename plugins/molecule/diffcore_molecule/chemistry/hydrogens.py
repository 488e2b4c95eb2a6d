"""Hydrogens as atoms, where a molecule has implicit ones: placed by RDKit, then relaxed by a force field."""

from rdkit import Chem
from rdkit.Chem import AllChem

STEPS = 2000
"""The largest number of steps of a relaxation."""


def with_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """A sanitised molecule with a conformer, with its implicit hydrogens as atoms at the end, all others unchanged.

    RDKit places hydrogens by the neighbours of their atom alone. MMFF94 then moves those that were added, and no other
    atom, to the nearest minimum of the energy; without parameters for the molecule, they stay where RDKit places them.
    """
    whole = Chem.AddHs(mol, addCoords=True)
    if whole.GetNumAtoms() == mol.GetNumAtoms():
        return whole
    parameters = AllChem.MMFFGetMoleculeProperties(whole)
    if parameters is None:
        return whole
    field = AllChem.MMFFGetMoleculeForceField(whole, parameters)
    for index in range(mol.GetNumAtoms()):
        field.AddFixedPoint(index)
    field.Minimize(maxIts=STEPS)
    return whole
