"""How similar and how different molecules are, by their graphs."""

import math
from collections.abc import Sequence

import torch
from rdkit import Chem, DataStructs
from torch import Tensor

from diffcore_molecule.chemistry.molecules import Molecule, remove_hydrogens
from diffcore_molecule.codec import MoleculeCodec
from diffcore_molecule.evaluation.likeness import fingerprints
from diffcore_molecule.evaluation.metrics import validated

_BITS = 2048
"""More than MOSES has, whose metrics have fingerprints of their own length."""


def similarities(samples: Sequence[Chem.Mol | None], others: Sequence[Chem.Mol | None]) -> list[list[float]]:
    """Tanimoto similarities `[n][m]` of Morgan fingerprints (radius 2, 2,048 bits); nan for None, not valid ones."""
    known = [place for place, mol in enumerate(others) if mol is not None]
    prints = fingerprints([mol for mol in others if mol is not None], _BITS)
    rows = []
    for mol in samples:
        row = [math.nan] * len(others)
        if mol is not None and known:
            found = DataStructs.BulkTanimotoSimilarity(fingerprints([mol], _BITS)[0], prints)
            for place, value in zip(known, found, strict=True):
                row[place] = value
        rows.append(row)
    return rows


class TanimotoDistance:
    """1 - the Tanimoto similarity of graphs, without stereochemistry; see `similarities`."""

    words = "1 - Tanimoto similarity of Morgan fingerprints"
    most = 2000

    def __init__(self, codec: MoleculeCodec) -> None:
        self._hydrogens = codec.facts.hydrogens

    def __call__(self, samples: Sequence[Molecule], others: Sequence[Molecule]) -> Tensor:
        """The distances `[n, m]`; nan for samples that are not valid."""
        rows, columns = ([self._plain(each) for each in some] for some in (samples, others))
        return 1 - torch.tensor(similarities(rows, columns), dtype=torch.float64).reshape(len(rows), len(columns))

    def _plain(self, molecule: Molecule) -> Chem.Mol | None:
        mol = validated(molecule, self._hydrogens)
        return None if mol is None else remove_hydrogens(mol)
