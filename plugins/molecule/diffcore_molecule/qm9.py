"""QM9's official file: what a record holds, and the molecule that it describes."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
from rdkit import Chem
from rdkit.Geometry import Point3D

from diffcore_molecule.collection import arrays_of, normal_form
from diffcore_molecule.molecules import Molecule

_TABLE = Chem.GetPeriodicTable()
SLACK = 1.3
"""Bonded atoms are nearer than this times the sum of their covalent radii."""


@dataclass(frozen=True)
class Record:
    """One molecule of the file, as it is written."""

    index: int
    """Its number in GDB-9, from 1."""
    values: tuple[float, ...]
    """The 15 numbers after `gdb i`: A B C mu alpha homo lumo gap r2 zpve U0 U H G Cv."""
    numbers: numpy.ndarray
    """Atomic numbers `[n]`."""
    positions: numpy.ndarray
    """Places in Angstrom `[n, 3]`."""
    smiles: tuple[str, ...]
    """SMILES of GDB-9 and of the relaxed geometry."""


def _number(text: str) -> float:
    return float(text.replace("*^", "e"))  # Mathematica wrote some of them


def parse(text: str) -> Record:
    """A record of the file. Raises `ValueError` where it is not one."""
    lines = text.splitlines()
    try:
        n = int(lines[0])
        header = lines[1].split()
        rows = [line.split() for line in lines[2 : 2 + n]]
        if header[0] != "gdb" or len(header) != 17 or len(rows) != n:
            raise ValueError
        return Record(
            index=int(header[1]),
            values=tuple(map(_number, header[2:])),
            numbers=numpy.array([_TABLE.GetAtomicNumber(row[0]) for row in rows], dtype=numpy.uint8),
            positions=numpy.array([[_number(value) for value in row[1:4]] for row in rows]),
            smiles=tuple(lines[n + 3].split()),
        )
    except (ValueError, IndexError, RuntimeError):
        raise ValueError("the record is not in QM9's format") from None


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The records of the packed file as text, in its order, each with the number in its name."""
    with tarfile.open(path) as packed:
        for member in packed:
            named = re.search(r"(\d+)\.xyz$", member.name)
            content = packed.extractfile(member) if named and member.isfile() else None
            if named and content is not None:
                yield int(named[1]), content.read().decode("ascii", errors="replace")


def molecule(record: Record) -> Molecule:
    """The molecule of a record: bonds and charges of its SMILES, places of its geometry.

    The other atoms than hydrogen are in the order of the SMILES; that is made sure of. Raises `ValueError` where it
    does not hold; `rematched` then finds the order.
    """
    why = "it has no SMILES"
    for smiles in record.smiles:
        template = Chem.MolFromSmiles(smiles)
        if template is None:
            why = "RDKit cannot read its SMILES"
            continue
        heavy = numpy.flatnonzero(record.numbers > 1)
        if _fits(template, record, heavy):
            return _placed(template, record, heavy)
        why = "its geometry is not that of its SMILES"
    raise ValueError(why)


def rematched(record: Record) -> Molecule:
    """As `molecule`, for atoms in any order: the order comes from a match of the SMILES with the geometry's bonds."""
    heavy = numpy.flatnonzero(record.numbers > 1)
    bonded, hydrogens = _near(record, heavy), _hydrogens(record, heavy)
    seen = Chem.RWMol()
    for atom, count in zip(heavy, hydrogens, strict=True):
        seen.AddAtom(_labelled(int(record.numbers[atom]), len(count)))
    for first, second in zip(*numpy.triu(bonded, 1).nonzero(), strict=True):
        seen.AddBond(int(first), int(second), Chem.BondType.SINGLE)
    for smiles in record.smiles:
        template = Chem.MolFromSmiles(smiles)
        if template is None or template.GetNumAtoms() != len(heavy):
            continue
        pattern = Chem.RWMol()
        for atom in template.GetAtoms():
            pattern.AddAtom(_labelled(atom.GetAtomicNum(), atom.GetTotalNumHs()))
        for bond in template.GetBonds():
            pattern.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
        match = seen.GetSubstructMatch(pattern)
        if match and _fits(template, record, heavy[list(match)]):
            return _placed(template, record, heavy[list(match)])
    raise ValueError("its geometry is not that of its SMILES")


def _labelled(number: int, hydrogens: int) -> Chem.Atom:
    """An atom that matches only those with as many hydrogens, which its isotope tells."""
    atom = Chem.Atom(number)
    atom.SetIsotope(1 + hydrogens)
    atom.SetNoImplicit(True)
    return atom


def _radii(numbers: numpy.ndarray) -> numpy.ndarray:
    return numpy.array([_TABLE.GetRcovalent(int(number)) for number in numbers])


def _near(record: Record, heavy: numpy.ndarray) -> numpy.ndarray:
    """Which atoms are near enough for a bond `[h, h]`."""
    places, radii = record.positions[heavy], _radii(record.numbers[heavy])
    distances = numpy.linalg.norm(places[:, None] - places[None], axis=-1)
    return (distances < SLACK * (radii[:, None] + radii[None])) & ~numpy.eye(len(heavy), dtype=bool)


def _hydrogens(record: Record, heavy: numpy.ndarray) -> list[list[int]]:
    """The hydrogens of each atom: those that it is nearest to."""
    found: list[list[int]] = [[] for _ in heavy]
    light = numpy.flatnonzero(record.numbers == 1)
    if len(heavy) and len(light):
        distances = numpy.linalg.norm(record.positions[light][:, None] - record.positions[heavy][None], axis=-1)
        for hydrogen, nearest in zip(light.tolist(), distances.argmin(1).tolist(), strict=True):
            found[nearest].append(hydrogen)
    return found


def _fits(template: Chem.Mol, record: Record, heavy: numpy.ndarray) -> bool:
    """Whether the atoms `heavy` of the record, in this order, can be those of the SMILES."""
    if [atom.GetAtomicNum() for atom in template.GetAtoms()] != record.numbers[heavy].tolist():
        return False
    if [atom.GetTotalNumHs() for atom in template.GetAtoms()] != [len(own) for own in _hydrogens(record, heavy)]:
        return False
    near = _near(record, heavy)
    return all(near[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()] for bond in template.GetBonds())


def _placed(template: Chem.Mol, record: Record, heavy: numpy.ndarray) -> Molecule:
    """The molecule of the SMILES with all its hydrogens, at the record's places."""
    whole = normal_form(template)
    hydrogens = iter([own for of_atom in _hydrogens(record, heavy) for own in of_atom])
    # AddHs appends the hydrogens of the first atom, then those of the second, and so on.
    order = [*heavy.tolist(), *hydrogens]
    conformer = Chem.Conformer(len(order))
    for index, atom in enumerate(order):
        conformer.SetAtomPosition(index, Point3D(*record.positions[atom].tolist()))
    whole.AddConformer(conformer, assignId=True)
    return arrays_of(whole)
