"""The official QM9 file: its records, the molecules that they describe, and EDM's split."""

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO

import numpy
from rdkit import Chem

from diffcore.errors import UserError
from diffcore.system.bounded import bounded
from diffcore.system.progress import counter
from diffcore_molecule.chemistry.dft import DFT
from diffcore_molecule.chemistry.elements import covalent_radii
from diffcore_molecule.chemistry.geometry import geometry_fault
from diffcore_molecule.chemistry.molecules import ORDERS, Molecule, charges_of
from diffcore_molecule.chemistry.reading import molecule_of_smiles
from diffcore_molecule.data.collection import Entry, entry
from diffcore_molecule.data.store import Parsed, parsed
from diffcore_molecule.timeout_pool import Failed, Timeout, map_each, processors, timeout_map

NAME = "dsgdb9nsd.xyz.tar.bz2"
"""The name of the file."""
_TABLE = Chem.GetPeriodicTable()
TOLERANCE = 1.3
"""The largest distance of bonded atoms, in units of the sum of their covalent radii."""
_MISMATCH = "a geometry that does not match its SMILES"


_LARGEST_INDEX = 10**9


@dataclass(frozen=True)
class Record:
    """A record of the file: one molecule."""

    index: int
    """Its number in GDB-9, from 1."""
    values: tuple[float, ...]
    """The 15 numbers after `gdb i`: A B C mu alpha homo lumo gap r2 zpve U0 U H G Cv."""
    numbers: numpy.ndarray
    """Atomic numbers `[n]`."""
    positions: numpy.ndarray
    """Positions in Angstrom `[n, 3]`."""
    smiles: tuple[str, ...]
    """The SMILES from GDB-9 and that of the relaxed geometry."""


def _number(text: str) -> float:
    return float(text.replace("*^", "e"))  # some numbers are in Mathematica's notation


def parse(text: str) -> Record:
    """Parse the text of a record. Raises `ValueError` if it is not in QM9's format."""
    lines = text.splitlines()
    try:
        n = int(lines[0])
        header = lines[1].split()
        rows = [line.split() for line in lines[2 : 2 + n]]
        if header[0] != "gdb" or len(header) != 17 or len(rows) != n or int(header[1]) > _LARGEST_INDEX:
            raise ValueError
        return Record(
            index=int(header[1]),
            values=tuple(map(_number, header[2:])),
            numbers=numpy.array([_TABLE.GetAtomicNumber(row[0]) for row in rows], dtype=numpy.uint8),
            positions=numpy.array([[_number(value) for value in row[1:4]] for row in rows]),
            smiles=tuple(lines[n + 3].split()),
        )
    except (ValueError, IndexError, RuntimeError, OverflowError):
        raise ValueError("a record that is not in QM9's format") from None


LONGEST_RECORD = 2**20
"""Bytes of a record, at most; QM9's have less than 3,000."""
_DECODERS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"BZh": lambda raw: bz2.BZ2File(raw),
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),  # type: ignore[dict-item,return-value]
    b"\xfd7zXZ": lambda raw: lzma.LZMAFile(raw),  # noqa: SIM115
}
"""What decodes an archive, by its first bytes."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of the records of the packed file, in its order, each with the number in the name of its member.

    The archive is only decoded to a bounded size (`diffcore.system.bounded`), and longer members are not read. Raises
    `UserError` if it decodes to more.
    """
    with path.open("rb") as raw:
        decoder = next((decoder for mark, decoder in _DECODERS.items() if raw.peek(6).startswith(mark)), None)
        stream = raw if decoder is None else decoder(raw)
        whole = bounded(stream, path, os.fstat(raw.fileno()).st_size)
        with tarfile.open(fileobj=whole, mode="r|") as packed:
            for member in packed:
                named = re.search(r"(\d+)\.xyz$", member.name)
                if named and member.isfile() and member.size <= LONGEST_RECORD:
                    content = packed.extractfile(member)
                    assert content is not None
                    yield int(named[1]), content.read(LONGEST_RECORD).decode("ascii", errors="replace")


def entries(portion: list[tuple[int, str]]) -> list[tuple[int, Record | None, Entry | str]]:
    """For the text of each record: its number, the record or None, and the entry or the reason why there is none."""
    found: list[tuple[int, Record | None, Entry | str]] = []
    for number, text in portion:
        record = None
        try:
            record = parse(text)
            found.append((record.index, record, _entry(record, molecule(record))))
        except ValueError as error:
            found.append((number if record is None else record.index, record, str(error)))
    return found


def rematched_entry(record: Record) -> Entry:
    """The entry of a record whose atoms are not in the order of its SMILES."""
    return _entry(record, rematched(record))


def _entry(record: Record, placed: Molecule) -> Entry:
    """The entry of a molecule at the positions of its record; raises `ValueError` if no molecule has such positions."""
    if fault := geometry_fault(placed):
        raise ValueError(fault)
    return entry(record.index, placed)


def molecule(record: Record) -> Molecule:
    """The molecule of a record: bonds and charges from its SMILES, positions from its geometry.

    The atoms other than hydrogen must be in the order of the SMILES. Raises `ValueError` if they are not; `rematched`
    then finds the order.
    """
    why = "no SMILES"
    for smiles in record.smiles:
        try:
            template = molecule_of_smiles(smiles)
        except ValueError as error:
            why = str(error)
            continue
        heavy = numpy.flatnonzero(record.numbers > 1)
        if _fits(template, record, heavy):
            return _placed(template, record, heavy)
        why = _MISMATCH
    raise ValueError(why)


def rematched(record: Record) -> Molecule:
    """The same as `molecule` for atoms in any order, found by matching the SMILES with the bonds of the geometry."""
    heavy = numpy.flatnonzero(record.numbers > 1)
    bonded, hydrogens = _near(record, heavy), _hydrogens(record, heavy)
    geometry = Chem.RWMol()
    for atom, own in zip(heavy, hydrogens, strict=True):
        geometry.AddAtom(_labelled(int(record.numbers[atom]), len(own)))
    for first, second in zip(*numpy.triu(bonded, 1).nonzero(), strict=True):
        geometry.AddBond(int(first), int(second), Chem.BondType.SINGLE)
    for smiles in record.smiles:
        template = Chem.MolFromSmiles(smiles)
        if template is None or template.GetNumAtoms() != len(heavy):
            continue
        pattern = Chem.RWMol()
        for atom in template.GetAtoms():
            pattern.AddAtom(_labelled(atom.GetAtomicNum(), atom.GetTotalNumHs()))
        for bond in template.GetBonds():
            pattern.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
        match = geometry.GetSubstructMatch(pattern)
        if match and _fits(template, record, heavy[list(match)]):
            return _placed(template, record, heavy[list(match)])
    raise ValueError(_MISMATCH)


def _labelled(number: int, hydrogens: int) -> Chem.Atom:
    """An atom whose isotope encodes its number of hydrogens, so that it matches only atoms with the same number."""
    atom = Chem.Atom(number)
    atom.SetIsotope(1 + hydrogens)
    atom.SetNoImplicit(True)
    return atom


def _near(record: Record, heavy: numpy.ndarray) -> numpy.ndarray:
    """Which pairs of the atoms `heavy` are near enough for a bond, bool `[h, h]`."""
    positions, radii = record.positions[heavy], covalent_radii(record.numbers[heavy])
    distances = numpy.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return (distances < TOLERANCE * (radii[:, None] + radii[None])) & ~numpy.eye(len(heavy), dtype=bool)


def _hydrogens(record: Record, heavy: numpy.ndarray) -> list[list[int]]:
    """For each of the atoms `heavy` its hydrogens: those whose nearest atom it is."""
    found: list[list[int]] = [[] for _ in heavy]
    light = numpy.flatnonzero(record.numbers == 1)
    if len(heavy) and len(light):
        distances = numpy.linalg.norm(record.positions[light][:, None] - record.positions[heavy][None], axis=-1)
        for hydrogen, nearest in zip(light.tolist(), distances.argmin(1).tolist(), strict=True):
            found[nearest].append(hydrogen)
    return found


def _fits(template: Chem.Mol, record: Record, heavy: numpy.ndarray) -> bool:
    """Whether the atoms `heavy` of the record, in this order, match those of the SMILES in elements and bonds."""
    if [atom.GetAtomicNum() for atom in template.GetAtoms()] != record.numbers[heavy].tolist():
        return False
    if [atom.GetTotalNumHs() for atom in template.GetAtoms()] != [len(own) for own in _hydrogens(record, heavy)]:
        return False
    near = _near(record, heavy)
    return all(near[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()] for bond in template.GetBonds())


def _placed(template: Chem.Mol, record: Record, heavy: numpy.ndarray) -> Molecule:
    """The molecule of the SMILES with explicit hydrogens, at the positions of the record."""
    if len(Chem.GetMolFrags(template)) > 1:
        raise ValueError("several unconnected pieces")
    Chem.Kekulize(template, clearAromaticFlags=True)
    owned = [(owner, hydrogen) for owner, own in enumerate(_hydrogens(record, heavy)) for hydrogen in own]
    order = [*heavy.tolist(), *(hydrogen for _, hydrogen in owned)]
    bonds = numpy.zeros((len(order), len(order)), dtype=numpy.uint8)
    for bond in template.GetBonds():
        bonds[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()] = ORDERS.index(bond.GetBondType())
    for index, (owner, _) in enumerate(owned, start=len(heavy)):
        bonds[owner, index] = 1
    charges = numpy.zeros(len(order), dtype=numpy.int8)
    charges[: len(heavy)] = charges_of(template)
    return Molecule(record.numbers[order], charges, bonds + bonds.T, record.positions[order].astype(numpy.float32))


MATCH_SECONDS = 10.0
"""The time limit for finding the order of the atoms of a molecule."""
CHARACTERISED = 130_831
"""The number of molecules of QM9 (133,885) without those whose geometry does not match their SMILES."""
PORTION, PORTION_SECONDS = 500, 120.0
"""The number of records that a worker parses at a time, and the time limit for a portion and for a record alone."""


def read(path: Path) -> Parsed:
    """All molecules of the packed file, in the order of GDB-9, with the properties of the file.

    Molecules listed in `uncharacterized.txt` in the same folder are excluded. Raises `UserError` if the file is damaged
    or contains no molecules.
    """
    excluded_numbers = excluded(path.parent / "uncharacterized.txt")
    found: list[Entry] = []
    failed: list[tuple[int, Record | None, str]] = []
    values: dict[int, tuple[float, ...]] = {}
    count = 0
    try:
        with counter("reading QM9", CHARACTERISED + len(excluded_numbers)) as more:
            items = (item for item in texts(path) if item[0] not in excluded_numbers)
            for item, outcome in map_each(entries, _portions(items), PORTION_SECONDS, processors()):
                unread = (item[0], None, str(outcome))
                number, record, result = unread if isinstance(outcome, Timeout | Failed) else outcome
                if isinstance(result, str):
                    failed.append((number, record, result))
                else:
                    found.append(result)
                if record is not None:
                    values[number] = record.values
                count += 1
                more(1)
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        why = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged: {why}; download it again") from None
    left_out = [(number, why) for number, record, why in failed if record is None]
    again = [record for _, record, _ in failed if record is not None]
    for record, matched in zip(again, timeout_map(rematched_entry, again, MATCH_SECONDS, processors()), strict=True):
        if isinstance(matched, Entry):
            found.append(matched)
        else:
            left_out.append((record.index, str(matched)))
    if not found:
        raise UserError(f"{path} contains no molecules in QM9's format: `data.root` must be {NAME}")
    notes = []
    if not excluded_numbers and count > CHARACTERISED:
        notes.append(
            f"all {count} molecules of {path.name} are used, including uncharacterised ones; to exclude those, put "
            "uncharacterized.txt (figshare 3195404) into the same folder"
        )
    whole = parsed(found, left_out)
    table = numpy.array([values[source] for source in whole.sources.tolist()])
    columns = {name: (table[:, at.index] * at.factor).astype(numpy.float32) for name, at in DFT.items()}
    return replace(whole, columns=columns, notes=tuple(notes))


def _portions(items: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    while portion := list(islice(items, PORTION)):
        yield portion


def excluded(path: Path) -> frozenset[int]:
    """The numbers in the official list of uncharacterised molecules; empty if the file does not exist.

    Each row of the list starts with a number and has two SMILES; other lines are its header and footer.
    """
    if not path.is_file():
        return frozenset()
    with path.open(errors="replace") as stream:
        text = stream.read(LONGEST_RECORD)
    first = (line.split()[0] for line in text.splitlines() if line.split())
    return frozenset(int(word) for word in first if word.isdecimal())


def split(count: int, seed: int = 0) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """The indices of the training, validation and test molecules among `count` molecules in the order of GDB-9.

    For the 130,831 molecules of QM9 and seed 0 it is the split of Anderson, Hy, Kondor 2019 (Cormorant), which EDM and
    its successors use: 100,000, 17,748 and 13,083. Other counts are split in the same proportions.
    """
    train = round(count * 100_000 / CHARACTERISED)
    test = int(0.1 * count)
    order = numpy.random.RandomState(seed).permutation(count)
    return tuple(numpy.split(order, [train, count - test]))  # type: ignore[return-value]


def halves(train: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The training molecules split into the two halves of EDM (Hoogeboom et al. 2022), shuffled as in its code.

    EDM trains its property classifier on the first half, and its conditional models on the second.
    """
    order = numpy.random.RandomState(42).permutation(len(train))
    return train[order[: len(train) // 2]], train[order[len(train) // 2 :]]
