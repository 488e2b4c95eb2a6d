"""What RDKit says about molecules, in the words of the sentences."""

from collections.abc import Sequence
from functools import cache

import torch
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from torch import Tensor

from diffcore.plugins.wordings import UNSAID
from diffcore_molecule.chemistry.molecules import remove_hydrogens
from diffcore_molecule.described.sentences import GROUPS, WORDINGS

VERSION = 1
"""Increase it when molecules get other values, to renew the cache."""


def judge(molecules: Sequence[Chem.Mol | None]) -> dict[str, Tensor]:
    """The values of sanitised molecules, int64 `[N]` by attribute of `diffcore_molecule.described.sentences.WORDINGS`.

    Molecules that are None, as they are not valid, have the value `UNSAID` of everything. So does a functional group
    that a molecule lacks.
    """
    rows = [[UNSAID] * len(WORDINGS) if each is None else values_of(each) for each in molecules]
    table = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), len(WORDINGS))
    return dict(zip(WORDINGS, table.unbind(1), strict=True))


def values_of(molecule: Chem.Mol) -> list[int]:
    """The values of a sanitised molecule, in the order of `WORDINGS`."""
    plain = remove_hydrogens(molecule)
    atoms = [atom.GetAtomicNum() for atom in plain.GetAtoms()]
    return [
        int(any(atom.GetIsAromatic() for atom in plain.GetAtoms())),
        min(rdMolDescriptors.CalcNumRings(plain), len(WORDINGS["rings"]) - 1),
        min(atoms.count(7), len(WORDINGS["nitrogen"]) - 1),
        min(atoms.count(8), len(WORDINGS["oxygen"]) - 1),
        *(0 if plain.HasSubstructMatch(pattern) else UNSAID for pattern in _patterns()),
    ]


@cache
def _patterns() -> tuple[Chem.Mol, ...]:
    """The patterns of `GROUPS`."""
    return tuple(map(Chem.MolFromSmarts, GROUPS.values()))
