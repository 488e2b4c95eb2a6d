"""Molecules of any program in a file, as samples to be judged: also those that are not valid."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy
from rdkit import Chem

from diffcore.errors import UserError
from diffcore_molecule.chemistry.bond_inference import with_inferred_bonds
from diffcore_molecule.chemistry.molecules import Molecule, from_rdkit
from diffcore_molecule.chemistry.reading import molecule_of_mol2, molecule_of_molfile, raw_outline
from diffcore_molecule.data.collection import without_hydrogens
from diffcore_molecule.data.conformers import has_positions
from diffcore_molecule.data.files import portions
from diffcore_molecule.data.record_texts import mol2_records, sdf_records
from diffcore_molecule.data.store import left_out_message
from diffcore_molecule.data.text import lines_of, opened
from diffcore_molecule.timeout_pool import Failed, Timeout, map_each, processors, reason_of

logger = logging.getLogger(__name__)

SECONDS = 30.0
"""The time limit for reading a record."""
_NOTHING = Molecule(numpy.zeros(0, "u1"), numpy.zeros(0, "i1"), numpy.zeros((0, 0), "u1"), numpy.zeros((0, 3), "f4"))
"""In place of a record that cannot be read: it is not valid."""


@dataclass(frozen=True)
class Sampled:
    """The text of a record, and how it is to be read."""

    source: int
    text: str | None
    form: Literal["molfile", "mol2", "xyz"]
    hydrogens: bool


@dataclass(frozen=True)
class Found:
    """A molecule of a record, and what had to be done: the reason why it is not valid, or hydrogens that are gone."""

    molecule: Molecule
    fault: str = ""
    implied: bool = False


def read_molecules(path: Path, hydrogens: bool) -> list[Molecule]:
    """The molecules of an SDF, MOL2 or XYZ file. With `hydrogens`, they are atoms; otherwise they are removed.

    Records that cannot be read, or that RDKit cannot sanitise, are samples that are not valid. Records without
    positions in 3D are left out, which is logged. The bonds of XYZ files are inferred from distances, as in EDM's
    tables. Raises `UserError` if no record has positions.
    """
    with opened(path) as (text, _):
        requests = _requests(path, lines_of(text), hydrogens)
        results = [
            (item.source, _result(each))
            for item, each in map_each(read_each, portions(requests), SECONDS, processors())
        ]
    flat = [(source, found) for source, found in results if isinstance(found, str)]
    there = [(source, found) for source, found in results if isinstance(found, Found)]
    if not there:
        why = f": {left_out_message(len(results), flat, 'record')}" if flat else ", because it has no records"
        raise UserError(f"{path} has no molecules that can be judged{why}")
    if flat:
        logger.warning(f"{path}: {left_out_message(len(results), flat, 'record')}")
    if wrong := [(source, found.fault) for source, found in there if found.fault]:
        words = left_out_message(len(there), wrong, "record").replace("are left out", "are not valid")
        logger.info(f"{path}: {words}")
    if any(found.implied for _, found in there):
        logger.warning(
            f"{path} has hydrogens as atoms, and they are removed, so that missing ones do not count: to judge them as "
            "atoms, give `data.hydrogens`"
        )
    return [found.molecule for _, found in there]


def read_each(requests: Sequence[Sampled]) -> list[Found | str]:
    """The molecule of each record, or the reason why it has no positions."""
    return [_read(request) for request in requests]


def _result(found: Found | str | Timeout | Failed) -> Found | str:
    return found if isinstance(found, Found | str) else Found(_NOTHING, str(found))


def _requests(path: Path, lines: Iterator[str], hydrogens: bool) -> Iterator[Sampled]:
    ending = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if ending == "xyz":
        yield from (Sampled(number, text, "xyz", hydrogens) for number, text in enumerate(_frames(path, lines), 1))
    elif ending == "mol2":
        yield from (Sampled(number, text, "mol2", hydrogens) for number, text in mol2_records(lines))
    else:
        yield from (Sampled(number, text, "molfile", hydrogens) for number, text in sdf_records(lines))


def _frames(path: Path, lines: Iterator[str]) -> Iterator[str]:
    """The frames of an XYZ file: a line with the number of atoms, a comment, and a line for each atom."""
    for line in lines:
        if not line.strip():
            continue
        count = int(line) if line.strip().isdecimal() else -1
        if not 0 <= count <= _MOST_ATOMS:
            raise UserError(
                f"{path} is not an XYZ file: {line.strip()[:40]!r} is not a number of atoms up to {_MOST_ATOMS:,}"
            )
        next(lines, "")
        yield "\n".join(next(lines, "") for _ in range(count))


_MOST_ATOMS = 100_000


def _read(request: Sampled) -> Found | str:
    if request.text is None:
        return Found(_NOTHING, "a record that is too long")
    try:
        if request.form == "xyz":
            return _of_frame(request.text, request.hydrogens)
        mol = (molecule_of_mol2 if request.form == "mol2" else molecule_of_molfile)(request.text)
        if not has_positions(mol):
            return "no positions in 3D"
        implied = not request.hydrogens and any(atom.GetAtomicNum() == 1 for atom in mol.GetAtoms())
        return Found(from_rdkit(mol, request.hydrogens), implied=implied)
    except Exception as error:  # whatever is wrong with a record, the others can be judged
        return Found(_raw(request), reason_of(error))


def _of_frame(text: str, hydrogens: bool) -> Found:
    table = Chem.GetPeriodicTable()
    rows = [line.split() for line in text.splitlines()]
    try:
        numbers = [int(row[0]) if row[0].isdecimal() else table.GetAtomicNumber(row[0].capitalize()) for row in rows]
        positions = numpy.array([[float(word) for word in row[1:4]] for row in rows], "f4").reshape(-1, 3)
    except (ValueError, IndexError, RuntimeError):
        return Found(_NOTHING, "a frame of an XYZ file that cannot be read")
    n = len(numbers)
    atoms = Molecule(numpy.array(numbers, "u1"), numpy.zeros(n, "i1"), numpy.zeros((n, n), "u1"), positions)
    whole = with_inferred_bonds(atoms)
    return Found(whole if hydrogens else without_hydrogens(whole), implied=not hydrogens and 1 in numbers)


def _raw(request: Sampled) -> Molecule:
    """The atoms and bonds of a record that RDKit cannot sanitise; nothing if it cannot even be parsed."""
    if request.form == "xyz":
        return _NOTHING
    try:
        return raw_outline(request.text or "", request.form) or _NOTHING
    except Exception:  # the reason is told already
        return _NOTHING
