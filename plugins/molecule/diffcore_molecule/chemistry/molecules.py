"""A molecule as arrays, and as RDKit has it."""

from dataclasses import dataclass
from hashlib import blake2b

import numpy
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem  # noqa: F401  (registers what conformers need)
from rdkit.Geometry import Point3D

RDLogger.DisableLog("rdApp.*")  # what is wrong with a molecule is said by us, once

ORDERS = (None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
"""Bond orders by their number; aromatic rings are written as alternating single and double bonds (Kekule)."""


@dataclass(frozen=True)
class Molecule:
    """Atoms, bonds and places of n atoms. Whether hydrogens are among the atoms is a matter of who made it."""

    numbers: numpy.ndarray
    """Atomic numbers `[n]`."""
    charges: numpy.ndarray
    """Formal charges `[n]`."""
    bonds: numpy.ndarray
    """Bond orders 0 to 3, symmetric `[n, n]`."""
    positions: numpy.ndarray
    """Places in Angstrom `[n, 3]`."""

    def __len__(self) -> int:
        return len(self.numbers)


def to_rdkit(molecule: Molecule, hydrogens: bool = False) -> Chem.Mol:
    """The molecule as RDKit has it, with its conformer, not sanitised.

    With `hydrogens` all of them are among the atoms and RDKit adds none; otherwise they are implicit.
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
    for index, place in enumerate(molecule.positions.tolist()):
        conformer.SetAtomPosition(index, Point3D(*place))
    conformer.Set3D(True)
    editable.AddConformer(conformer, assignId=True)
    return editable.GetMol()


def knot(molecule: Molecule) -> str:
    """Why RDKit must not see the bonds of a sample, or nothing where it may.

    The search for rings in a graph of more bonds than any molecule has, which sanitising, drawing, writing and reading
    all do, may take hours, or crash. Bonds of no length stop the reading of a file.
    """
    first, second = numpy.triu(molecule.bonds, 1).nonzero()
    n, bonds = len(molecule), len(first)
    if bonds > max(64, min(2 * n, n + 150)):
        return f"{bonds} bonds among {n} atoms"
    lengths = numpy.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1)
    return "bonded atoms are in one place" if bonds and lengths.min() < 1e-3 else ""


def sanitised(molecule: Chem.Mol) -> Chem.Mol | None:
    """A sanitised copy with stereochemistry from the places, or None where RDKit finds no chemistry in it."""
    copy = Chem.Mol(molecule)
    try:
        Chem.SanitizeMol(copy)
        if copy.GetNumConformers():
            Chem.AssignStereochemistryFrom3D(copy)
    except (ValueError, RuntimeError):
        return None
    return copy


def bare(molecule: Chem.Mol) -> Chem.Mol:
    """The sanitised molecule with its hydrogens implied, also where they tell the two sides of a double bond apart."""
    parameters = Chem.RemoveHsParameters()
    parameters.removeDefiningBondStereo = True
    parameters.removeIsotopes = True
    return Chem.RemoveHs(molecule, parameters)


def from_rdkit(molecule: Chem.Mol, hydrogens: bool = False) -> Molecule:
    """The arrays of a sanitised molecule that has a conformer.

    Without `hydrogens` those that can be implied are left out; with them, all must be among the atoms (`AddHs`).
    Raises `ValueError` where it has no conformer, or cannot be written with bonds of order 1 to 3.
    """
    if not molecule.GetNumConformers():
        raise ValueError("the molecule has no places of atoms")
    plain = Chem.Mol(molecule) if hydrogens else bare(molecule)
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
        charges=numpy.array([atom.GetFormalCharge() for atom in plain.GetAtoms()], dtype=numpy.int8),
        bonds=bonds,
        positions=plain.GetConformer().GetPositions().astype(numpy.float32),
    )


def identity(molecule: Chem.Mol) -> int:
    """63 bits that tell molecules apart by atoms and bonds: the blake2b hash of the canonical SMILES.

    Stereochemistry and isotopes do not count, nor whether hydrogens are atoms or implied. Takes a sanitised molecule.
    """
    plain = bare(molecule)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
    smiles = Chem.MolToSmiles(plain, isomericSmiles=False)
    return int.from_bytes(blake2b(smiles.encode(), digest_size=8).digest(), "big") >> 1
