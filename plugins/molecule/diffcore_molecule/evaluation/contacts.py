"""Atoms that come too close to each other, with the hydrogens that RDKit adds."""

from collections.abc import Sequence

import numpy
from rdkit import Chem

NEAR = 1.6
"""Two atoms that are more than two bonds apart are in contact below this distance, in Angstrom."""


def nearest(mol: Chem.Mol) -> float:
    """The smallest distance in Angstrom of two atoms that are more than two bonds apart; infinite if there are none.

    `mol` is sanitised and has a conformer. Implicit hydrogens are first added with positions (`Chem.AddHs`), which
    depend on the positions of the neighbours alone, and not on what is near.
    """
    whole = Chem.AddHs(mol, addCoords=True)
    positions = whole.GetConformer().GetPositions()
    distances = numpy.linalg.norm(positions[:, None] - positions[None], axis=2)
    far = Chem.GetDistanceMatrix(whole) > 2
    return float(distances[far].min()) if far.any() else float("inf")


def contact_fraction(mols: Sequence[Chem.Mol]) -> float:
    """The fraction of the molecules with two atoms in contact; NaN for no molecules."""
    return sum(nearest(mol) < NEAR for mol in mols) / len(mols) if mols else float("nan")
