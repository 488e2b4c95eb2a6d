"""QM9's official file: what a record holds, the molecule that it describes, and the whole of it."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy
from rdkit import Chem

from diffcore.errors import UserError
from diffcore.system.progress import counter
from diffcore_molecule.chemistry.molecules import ORDERS, Molecule
from diffcore_molecule.chemistry.properties import DFT
from diffcore_molecule.data.collection import Entry, entry
from diffcore_molecule.data.store import Parsed, in_portions, parsed
from diffcore_molecule.timeout_pool import limited_map, processors

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


def entries(portion: list[tuple[int, str]]) -> list[tuple[int, Record | None, Entry | str]]:
    """What the texts of records hold: number, record, and the entry or why there is none."""
    found: list[tuple[int, Record | None, Entry | str]] = []
    for number, text in portion:
        record = None
        try:
            record = parse(text)
            found.append((record.index, record, entry(record.index, molecule(record))))
        except ValueError as error:
            found.append((number if record is None else record.index, record, str(error)))
    return found


def rematched_entry(record: Record) -> Entry:
    """The entry of a record whose atoms are in another order than those of its SMILES."""
    return entry(record.index, rematched(record))


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
    if len(Chem.GetMolFrags(template)) > 1:
        raise ValueError("of several pieces")
    Chem.Kekulize(template, clearAromaticFlags=True)
    owned = [(owner, hydrogen) for owner, own in enumerate(_hydrogens(record, heavy)) for hydrogen in own]
    order = [*heavy.tolist(), *(hydrogen for _, hydrogen in owned)]
    bonds = numpy.zeros((len(order), len(order)), dtype=numpy.uint8)
    for bond in template.GetBonds():
        bonds[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()] = ORDERS.index(bond.GetBondType())
    for place, (owner, _) in enumerate(owned, start=len(heavy)):
        bonds[owner, place] = 1
    charges = numpy.zeros(len(order), dtype=numpy.int8)
    charges[: len(heavy)] = [atom.GetFormalCharge() for atom in template.GetAtoms()]
    return Molecule(record.numbers[order], charges, bonds + bonds.T, record.positions[order].astype(numpy.float32))


MATCH_SECONDS = 10.0
"""What finding the order of a molecule's atoms may take."""
CHARACTERISED = 130_831
"""Molecules that are left of QM9's 133,885 without those whose geometry is not that of their SMILES."""
PORTION = 500


def read(path: Path) -> Parsed:
    """All molecules of the packed file, in the order of GDB-9, with the properties that it gives.

    Those that `uncharacterized.txt` beside it lists are left aside. Raises `UserError` where it is damaged.
    """
    aside = excluded(path.parent / "uncharacterized.txt")
    found: list[Entry] = []
    failed: list[tuple[int, Record | None, str]] = []
    values: dict[int, tuple[float, ...]] = {}
    count = 0
    try:
        with counter("reading QM9", CHARACTERISED + len(aside)) as more:
            kept = (item for item in texts(path) if item[0] not in aside)
            for portion in in_portions(entries, _portions(kept), path.stat().st_size // 600):
                for number, record, outcome in portion:
                    if isinstance(outcome, str):
                        failed.append((number, record, outcome))
                    else:
                        found.append(outcome)
                    if record is not None:
                        values[number] = record.values
                count += len(portion)
                more(len(portion))
    except (tarfile.TarError, EOFError, OSError) as error:
        why = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged: {why}; fetch it again") from None
    unread = [(number, why) for number, record, why in failed if record is None]
    again = [record for _, record, _ in failed if record is not None]
    for record, matched in zip(again, limited_map(rematched_entry, again, MATCH_SECONDS, processors()), strict=True):
        if isinstance(matched, Entry):
            found.append(matched)
        else:
            unread.append((record.index, str(matched)))
    if not found:
        raise UserError(f"{path} holds no molecules in QM9's format")
    notes = []
    if not aside and count > CHARACTERISED:
        notes.append(
            f"the {count} molecules of {path.name} are kept, uncharacterised ones too; put uncharacterized.txt "
            "(figshare 3195404) beside the file to leave those out"
        )
    whole = parsed(found, unread)
    table = numpy.array([values[source] for source in whole.sources.tolist()])
    columns = {name: (table[:, at.index] * at.factor).astype(numpy.float32) for name, at in DFT.items()}
    return replace(whole, columns=columns, notes=tuple(notes))


def _portions(items: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    while portion := list(islice(items, PORTION)):
        yield portion


def excluded(path: Path) -> frozenset[int]:
    """The numbers that the official list of uncharacterised molecules names; none where it is not there.

    Its rows begin with the number and hold the two SMILES; other lines are its head and foot.
    """
    if not path.is_file():
        return frozenset()
    first = (line.split()[0] for line in path.read_text(errors="replace").splitlines() if line.split())
    return frozenset(int(word) for word in first if word.isdecimal())


def split(count: int, seed: int = 0) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Which of `count` molecules, in the order of GDB-9, are for training, validation and test.

    With the 130,831 of QM9 and seed 0 it is the split of Anderson, Hy, Kondor 2019 (Cormorant), which EDM and its
    successors use: 100,000, 17,748 and 13,083. Other counts are split by the same shares.
    """
    train = round(count * 100_000 / CHARACTERISED)
    test = int(0.1 * count)
    order = numpy.random.RandomState(seed).permutation(count)
    return tuple(numpy.split(order, [train, count - test]))  # type: ignore[return-value]


def halves(train: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The training molecules in the two halves of EDM (Hoogeboom et al. 2022), as its code shuffles them.

    From the first its classifier of properties learns, from the second its conditional models.
    """
    order = numpy.random.RandomState(42).permutation(len(train))
    return train[order[: len(train) // 2]], train[order[len(train) // 2 :]]
