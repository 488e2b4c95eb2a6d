"""Molecules as NumPy arrays, and their conversion from and to RDKit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem  # noqa: F401  (registers what conformers need)
from rdkit.Geometry import Point3D
from scipy.linalg import block_diag

RDLogger.DisableLog("rdApp.*")  # this package reports what is wrong with a molecule, once

ORDERS = (None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
"""RDKit's bond types by bond order. Aromatic rings have alternating single and double bonds (Kekule form)."""


@dataclass(frozen=True)
class Molecule:
    """Elements, charges, bonds and positions of n atoms. Depending on its source, hydrogens are atoms or implicit."""

    numbers: numpy.ndarray
    """Atomic numbers `[n]`."""
    charges: numpy.ndarray
    """Formal charges `[n]`."""
    bonds: numpy.ndarray
    """Bond orders 0 to 3, symmetric `[n, n]`."""
    positions: numpy.ndarray
    """Positions in Angstrom `[n, 3]`."""
    properties: Mapping[str, float] = field(default_factory=dict)
    """The values of properties that were drawn together with it, or that it was drawn for, by name."""

    def __len__(self) -> int:
        return len(self.numbers)


def together(molecules: Sequence[Molecule]) -> Molecule:
    """The atoms and bonds of all molecules as one, in their order."""
    return Molecule(
        numbers=numpy.concatenate([each.numbers for each in molecules]),
        charges=numpy.concatenate([each.charges for each in molecules]),
        bonds=block_diag(*(each.bonds for each in molecules)).astype(numpy.uint8),
        positions=numpy.concatenate([each.positions for each in molecules]),
    )


def to_rdkit(molecule: Molecule, hydrogens: bool = False) -> Chem.Mol:
    """The molecule as an RDKit object with one conformer, not sanitised.

    With `hydrogens`, all hydrogens are explicit atoms and RDKit adds none; otherwise RDKit adds implicit hydrogens.
    """
    editable = Chem.RWMol()
    for number, charge in zip(molecule.numbers.tolist(), molecule.charges.tolist(), strict=True):
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(hydrogens)
        editable.AddAtom(atom)
    for first, second in zip(*numpy.triu(molecule.bonds, 1).nonzero(), strict=True):
        editable.AddBond(int(first), int(second), ORDERS[int(molecule.bonds[first, second])])
    conformer = Chem.Conformer(len(molecule))
    for index, position in enumerate(molecule.positions.tolist()):
        conformer.SetAtomPosition(index, Point3D(*position))
    conformer.Set3D(True)
    editable.AddConformer(conformer, assignId=True)
    return editable.GetMol()


def too_many_bonds(atoms: int, bonds: int) -> str:
    """The reason why a graph with so many atoms and bonds must not be passed to RDKit; empty if it may be.

    Sanitising, drawing, writing and reading all search for rings. In a graph with more bonds than any molecule has, the
    search may take hours, or crash.
    """
    return f"{bonds} bonds among {atoms} atoms" if bonds > max(64, min(2 * atoms, atoms + 150)) else ""


def unsafe_bonds(molecule: Molecule) -> str:
    """The reason why the bonds of a sample must not be passed to RDKit; empty if they may be.

    These are `too_many_bonds`, and bonds of zero length, which make readers of a file stop.
    """
    first, second = numpy.triu(molecule.bonds, 1).nonzero()
    bonds = len(first)
    if reason := too_many_bonds(len(molecule), bonds):
        return reason
    lengths = numpy.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1)
    return "bonded atoms have the same position" if bonds and lengths.min() < 1e-3 else ""


def sanitised(molecule: Chem.Mol) -> Chem.Mol | None:
    """A sanitised copy with stereochemistry from the positions, or None if RDKit cannot sanitise the molecule."""
    copy = Chem.Mol(molecule)
    try:
        Chem.SanitizeMol(copy)
        if copy.GetNumConformers():
            Chem.AssignStereochemistryFrom3D(copy)
    except (ValueError, RuntimeError):
        return None
    return copy


def remove_hydrogens(molecule: Chem.Mol) -> Chem.Mol:
    """The sanitised molecule with implicit hydrogens, including those that define the stereo of a double bond."""
    parameters = Chem.RemoveHsParameters()
    parameters.removeDefiningBondStereo = True
    parameters.removeIsotopes = True
    return Chem.RemoveHs(molecule, parameters)


def from_rdkit(molecule: Chem.Mol, hydrogens: bool = False) -> Molecule:
    """The arrays of a sanitised molecule that has a conformer.

    Without `hydrogens`, hydrogens that can be implicit are removed. With `hydrogens`, all hydrogens must be explicit
    atoms (`AddHs`). Raises `ValueError` if there is no conformer, or a bond that has no Kekule form of order 1 to 3.
    """
    if not molecule.GetNumConformers():
        raise ValueError("the molecule has no conformer")
    plain = Chem.Mol(molecule) if hydrogens else remove_hydrogens(molecule)
    Chem.Kekulize(plain, clearAromaticFlags=True)
    n = plain.GetNumAtoms()
    bonds = numpy.zeros((n, n), dtype=numpy.uint8)
    for bond in plain.GetBonds():
        if bond.GetBondType() not in ORDERS:
            raise ValueError(f"a bond is {bond.GetBondType()}, not single, double or triple")
        first, second = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonds[first, second] = bonds[second, first] = ORDERS.index(bond.GetBondType())
    return Molecule(
        numbers=numpy.array([atom.GetAtomicNum() for atom in plain.GetAtoms()], dtype=numpy.uint8),
        charges=charges_of(plain),
        bonds=bonds,
        positions=plain.GetConformer().GetPositions().astype(numpy.float32),
    )


def charges_of(molecule: Chem.Mol) -> numpy.ndarray:
    """The formal charges of the atoms, int8 `[n]`. Raises `ValueError` for charges that int8 cannot hold."""
    charges = [atom.GetFormalCharge() for atom in molecule.GetAtoms()]
    if charges and max(map(abs, charges)) > 127:
        raise ValueError(f"an atom with a charge of {max(charges, key=abs):+d}")
    return numpy.array(charges, dtype=numpy.int8)


def identity(molecule: Chem.Mol, stereo: bool = False) -> int:
    """A 63-bit number that identifies a sanitised molecule: the blake2b hash of its canonical SMILES.

    It does not depend on isotopes, nor on whether hydrogens are explicit or implicit. With `stereo` it depends on
    stereochemistry, so mirror images of a chiral molecule have different numbers.
    """
    plain = remove_hydrogens(molecule)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
    smiles = Chem.MolToSmiles(plain, isomericSmiles=stereo)
    return int.from_bytes(blake2b(smiles.encode(), digest_size=8).digest(), "big") >> 1
