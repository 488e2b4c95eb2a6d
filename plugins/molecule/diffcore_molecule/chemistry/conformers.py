"""Conformers of molecules that have none, by RDKit's ETKDG."""

from dataclasses import dataclass

from rdkit import Chem
from rdkit.Chem import AllChem

from diffcore_molecule.data.collection import Entry, entry_of, normal_form


@dataclass(frozen=True)
class Order:
    """What conformers are to be made of."""

    source: int
    molecule: str | Chem.Mol
    """SMILES, or a sanitised molecule."""
    conformers: int = 1
    relax: bool = True
    """Whether to relax them with MMFF94, where it has parameters for all atoms."""
    max_atoms: int = 512
    """How many atoms beside hydrogen it may have."""


SEED = 0
"""The same molecule has the same conformers."""


def made(order: Order) -> list[Entry]:
    """At most so many conformers of the molecule, by ETKDGv3 (Wang, Witek, Landrum, Riniker 2020).

    Raises `ValueError` where the molecule cannot be read, is too large, of several pieces, or finds no conformer.
    """
    molecule = order.molecule
    if isinstance(molecule, str):
        molecule = Chem.MolFromSmiles(molecule)
        if molecule is None:
            raise ValueError("RDKit cannot read it")
    refuse_large(molecule, order.max_atoms)
    whole = normal_form(molecule)
    whole.RemoveAllConformers()
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = SEED
    found = list(AllChem.EmbedMultipleConfs(whole, order.conformers, parameters))
    if not found:
        parameters.useRandomCoords = True  # what RDKit advises for the molecules that fail
        found = list(AllChem.EmbedMultipleConfs(whole, order.conformers, parameters))
    if not found:
        raise ValueError("no conformer was found")
    if order.relax and AllChem.MMFFHasAllMoleculeParams(whole):
        AllChem.MMFFOptimizeMoleculeConfs(whole)
    return [entry_of(order.source, Chem.Mol(whole, confId=conformer)) for conformer in found]


def refuse_large(molecule: Chem.Mol, max_atoms: int) -> None:
    """Raise `ValueError` where the molecule has more than `max_atoms` atoms beside hydrogen."""
    count = molecule.GetNumHeavyAtoms()
    if count > max_atoms:
        raise ValueError(f"{count} atoms, more than {max_atoms}")
