"""Molecules of which the graph is given, as SMILES, and the positions are to be drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
from rdkit import Chem

from diffcore.errors import UserError
from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields, named
from diffcore_molecule.chemistry.molecules import Molecule, from_rdkit, remove_hydrogens, sanitised, to_rdkit
from diffcore_molecule.chemistry.reading import molecule_of_smiles
from diffcore_molecule.codec import MoleculeCodec
from diffcore_molecule.data.text import lines_of, opened

MOST = 100_000
"""Molecules of a file, at most."""


def read_graphs(path: Path, hydrogens: bool) -> list[tuple[int, Chem.Mol]]:
    """The molecules of a file with a SMILES at the beginning of each line, with the numbers of their lines.

    What follows a SMILES after a space or a tab is not read, and empty lines are passed over. With `hydrogens`, they
    are atoms. Raises `UserError` with the number of the line for what is no SMILES, and for several pieces.
    """
    found: list[tuple[int, Chem.Mol]] = []
    with opened(path) as (text, _):
        for number, line in enumerate(lines_of(text), 1):
            if not line.strip():
                continue
            if len(found) == MOST:
                raise UserError(f"{path} has more than {MOST:,} molecules: give a smaller file")
            try:
                molecule = molecule_of_smiles(line.split()[0])
                if len(Chem.GetMolFrags(molecule)) > 1:
                    raise ValueError("several pieces; give one molecule in each line")
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
            found.append((number, Chem.AddHs(molecule) if hydrogens else remove_hydrogens(molecule)))
    if not found:
        raise UserError(f"{path} has no molecules: write a SMILES in each line")
    return found


def with_zeros(mol: Chem.Mol) -> Molecule:
    """The arrays of a sanitised molecule, in the order of its atoms, with all positions zero."""
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    copy.AddConformer(Chem.Conformer(copy.GetNumAtoms()))
    return from_rdkit(copy, hydrogens=True)


Labels = Mapping[frozenset[int], str]
"""The label of each stereocentre, R or S, by its atom, and of each double bond, E or Z, by its two atoms."""


def labels_of(mol: Chem.Mol) -> Labels:
    """The labels of the stereocentres and double bonds of a molecule whose configuration is known."""
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    centres = {frozenset([a.GetIdx()]): a.GetProp("_CIPCode") for a in mol.GetAtoms() if a.HasProp("_CIPCode")}
    names = {Chem.BondStereo.STEREOE: "E", Chem.BondStereo.STEREOZ: "Z"}
    bonds = {
        frozenset([bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]): names[bond.GetStereo()]
        for bond in mol.GetBonds()
        if bond.GetStereo() in names
    }
    return {**centres, **bonds}


def with_stereo(
    codec: MoleculeCodec, wanted: Sequence[Chem.Mol], states: State, mask: Mask, rows: Sequence[int]
) -> tuple[State, list[bool]]:
    """The states, or their mirror images, and whether each has the stereochemistry of its molecule in `wanted`.

    A mirror image is as likely as the state for a network that commutes with reflections, and is taken only where it
    has the stereochemistry that the state has not. What a SMILES leaves open may be anything.
    """
    positions, agrees = fields(states)["positions"].clone(), []
    for place, (molecule, row) in enumerate(zip(codec.decode(states, mask), rows, strict=True)):
        labels = labels_of(Chem.Mol(wanted[row]))
        signs = [sign for sign in (1.0, -1.0) if _has(molecule, sign, labels, codec.facts.hydrogens)]
        agrees.append(bool(signs))
        if signs:
            positions[place] *= signs[0]
    return named({**fields(states), "positions": positions}), agrees


def _has(molecule: Molecule, sign: float, labels: Labels, hydrogens: bool) -> bool:
    if not labels:
        return True
    places = molecule.positions * numpy.float32(sign)
    mol = sanitised(to_rdkit(Molecule(molecule.numbers, molecule.charges, molecule.bonds, places), hydrogens))
    if mol is None:
        return False
    found = labels_of(mol)
    return all(found.get(where) == label for where, label in labels.items())
