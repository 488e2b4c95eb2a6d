"""Texts of molecules to entries, in worker processes: reading, checks, and conformers where positions are missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
from rdkit import Chem
from rdkit.Chem import AllChem

from diffcore_molecule.chemistry.geometry import geometry_fault
from diffcore_molecule.chemistry.reading import molecule_of_mol2, molecule_of_molfile, molecule_of_smiles, outline
from diffcore_molecule.data.collection import Entry, entry_of, normal_form
from diffcore_molecule.options import Salts
from diffcore_molecule.timeout_pool import Failed, reason_of

SEED = 0
"""The seed of the embedding. It is fixed, so a molecule always gets the same conformers."""
ISOTOPES = "used without their isotopes"
LARGEST_PIECE = "reduced to their largest piece"
GENERATED = "given generated positions, because the file has none in 3D"
_READERS = {"smiles": molecule_of_smiles, "molfile": molecule_of_molfile, "mol2": molecule_of_mol2}


@dataclass(frozen=True)
class Request:
    """A molecule as text, and how it is to be used."""

    source: int
    """The number of its record or line in the file."""
    text: str | None
    """A SMILES, a molfile or a record of a MOL2 file; None for a text that is too long."""
    form: Literal["smiles", "molfile", "mol2"] = "smiles"
    conformers: int = 1
    """The number of conformers, where the text has no positions."""
    relax: bool = True
    """Whether to relax the conformers with MMFF94, if it has parameters for all atoms."""
    max_atoms: int = 512
    """The largest allowed number of atoms other than hydrogen."""
    salts: Salts = "drop"
    """What is done with molecules of several pieces."""


def entries_of(request: Request) -> list[Entry]:
    """The entry of a molecule with positions, or else entries of at most `request.conformers` conformers.

    Conformers are by ETKDGv3 (Wang, Witek, Landrum, Riniker 2020). Raises `ValueError` if the molecule cannot be read,
    is too large or in several pieces, if its positions cannot be those of a molecule, or if no conformer is found.
    """
    if request.text is None:
        raise ValueError("a record that is too long")
    molecule = _READERS[request.form](request.text)
    changes: list[str] = []
    if len(pieces := Chem.GetMolFrags(molecule, asMols=True, sanitizeFrags=False)) > 1:
        if request.salts == "drop":
            raise ValueError("several unconnected pieces; `data.salts` largest uses the largest one")
        molecule = max(pieces, key=lambda piece: (piece.GetNumHeavyAtoms(), piece.GetNumAtoms()))
        Chem.SanitizeMol(molecule)
        changes.append(LARGEST_PIECE)
    check_size(molecule, request.max_atoms)
    if any(atom.GetIsotope() for atom in molecule.GetAtoms()):
        changes.append(ISOTOPES)
    if has_positions(molecule):
        if fault := geometry_fault(outline(molecule)):
            raise ValueError(fault)
        return [entry_of(request.source, molecule, changes)]
    if request.form != "smiles":
        changes.append(GENERATED)
    return [entry_of(request.source, conformer, changes) for conformer in _embedded(molecule, request)]


def entries_of_each(requests: Sequence[Request]) -> list[list[Entry] | Failed]:
    """`entries_of` each request, or the reason why there are none."""
    results: list[list[Entry] | Failed] = []
    for request in requests:
        try:
            results.append(entries_of(request))
        except Exception as error:
            results.append(Failed(reason_of(error)))
    return results


def has_positions(molecule: Chem.Mol) -> bool:
    """Whether the molecule has positions in 3D: its file says so, or some z coordinate is not zero."""
    if not molecule.GetNumConformers():
        return False
    conformer = molecule.GetConformer()
    return conformer.Is3D() or bool(numpy.ptp(conformer.GetPositions()[:, 2]) > 0)


def _embedded(molecule: Chem.Mol, request: Request) -> list[Chem.Mol]:
    whole = normal_form(molecule)
    whole.RemoveAllConformers()
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = SEED
    conformers = list(AllChem.EmbedMultipleConfs(whole, request.conformers, parameters))
    if not conformers:
        parameters.useRandomCoords = True  # RDKit's advice for molecules whose embedding fails
        conformers = list(AllChem.EmbedMultipleConfs(whole, request.conformers, parameters))
    if not conformers:
        raise ValueError("ETKDG found no conformer")
    if request.relax and AllChem.MMFFHasAllMoleculeParams(whole):
        AllChem.MMFFOptimizeMoleculeConfs(whole)
    return [Chem.Mol(whole, confId=conformer) for conformer in conformers]


def check_size(molecule: Chem.Mol, max_atoms: int) -> None:
    """Raise `ValueError` if the molecule has more than `max_atoms` atoms other than hydrogen."""
    if molecule.GetNumHeavyAtoms() > max_atoms:
        raise ValueError(f"more atoms than `data.max_atoms` {max_atoms}")
