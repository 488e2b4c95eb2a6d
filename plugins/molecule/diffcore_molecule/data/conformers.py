"""Conformers of molecules that have no 3D coordinates, by RDKit's ETKDG."""

from dataclasses import dataclass

from rdkit import Chem
from rdkit.Chem import AllChem

from diffcore_molecule.data.collection import Entry, entry_of, normal_form


@dataclass(frozen=True)
class ConformerRequest:
    """A molecule, and how its conformers are generated."""

    source: int
    """The number of its record or line in the file."""
    molecule: str | Chem.Mol
    """A SMILES string, or a sanitised molecule."""
    conformers: int = 1
    """The number of conformers."""
    relax: bool = True
    """Whether to relax the conformers with MMFF94, if it has parameters for all atoms."""
    max_atoms: int = 512
    """The largest allowed number of atoms other than hydrogen."""


SEED = 0
"""The seed of the embedding. It is fixed, so a molecule always gets the same conformers."""


def generate_conformers(request: ConformerRequest) -> list[Entry]:
    """At most `request.conformers` conformers, by ETKDGv3 (Wang, Witek, Landrum, Riniker 2020).

    Raises `ValueError` if the molecule cannot be read, is too large or in several pieces, or if no conformer is found.
    """
    molecule = request.molecule
    if isinstance(molecule, str):
        molecule = Chem.MolFromSmiles(molecule)
        if molecule is None:
            raise ValueError("RDKit cannot read it")
    check_size(molecule, request.max_atoms)
    whole = normal_form(molecule)
    whole.RemoveAllConformers()
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = SEED
    conformers = list(AllChem.EmbedMultipleConfs(whole, request.conformers, parameters))
    if not conformers:
        parameters.useRandomCoords = True  # RDKit's advice for molecules whose embedding fails
        conformers = list(AllChem.EmbedMultipleConfs(whole, request.conformers, parameters))
    if not conformers:
        raise ValueError("no conformer was found")
    if request.relax and AllChem.MMFFHasAllMoleculeParams(whole):
        AllChem.MMFFOptimizeMoleculeConfs(whole)
    return [entry_of(request.source, Chem.Mol(whole, confId=conformer)) for conformer in conformers]


def check_size(molecule: Chem.Mol, max_atoms: int) -> None:
    """Raise `ValueError` if the molecule has more than `max_atoms` atoms other than hydrogen."""
    count = molecule.GetNumHeavyAtoms()
    if count > max_atoms:
        raise ValueError(f"more atoms than `data.max_atoms` {max_atoms}")
