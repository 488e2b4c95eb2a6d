"""SMILES and molfiles to RDKit molecules, with the reason where that is not possible."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy
import rdkit
from rdkit import Chem, RDLogger, rdBase

from diffcore_molecule.chemistry.molecules import Molecule, charges_of, too_many_bonds

_ERRORS = (RuntimeError, ValueError, SystemError)
"""What RDKit raises for a text that it cannot read: `SystemError` if its message is not valid UTF-8."""
LONGEST_SMILES = 20_000
"""Characters of a SMILES, at most."""


def molecule_of_smiles(text: str) -> Chem.Mol:
    """The sanitised molecule of a SMILES. Raises `ValueError` with the reason if there is none."""
    if not text.strip():
        raise ValueError("no SMILES: the cell is empty")
    if len(text) > LONGEST_SMILES:
        raise ValueError(f"a SMILES of more than {LONGEST_SMILES:,} characters")
    molecule, messages = _parsed(lambda: Chem.MolFromSmiles(text, sanitize=False))
    if molecule is None:
        raise ValueError(f"not a SMILES: {_smiles_mistake(messages)}")
    return _sanitised(molecule, lambda: Chem.MolFromSmiles(text))


def molecule_of_molfile(text: str) -> Chem.Mol:
    """The sanitised molecule of a molfile, with its explicit hydrogens and positions.

    Raises `ValueError` with the reason if there is none.
    """
    declared = _declared_bonds(text)
    if declared is not None and (reason := too_many_bonds(*declared)):
        raise ValueError(reason)
    molecule, messages = _parsed(lambda: Chem.MolFromMolBlock(text, sanitize=False, removeHs=False))
    if molecule is None:
        raise ValueError(f"not a molfile: {_mistake(messages)}")
    return _sanitised(molecule, lambda: Chem.MolFromMolBlock(text, removeHs=False))


def molecule_of_mol2(text: str) -> Chem.Mol:
    """The sanitised molecule of a record of a MOL2 file, with its explicit hydrogens and positions.

    RDKit reads atom types as Corina writes them. Raises `ValueError` with the reason if there is no molecule.
    """
    molecule, messages = _parsed(lambda: Chem.MolFromMol2Block(text, sanitize=False, removeHs=False))
    if molecule is None:
        raise ValueError(f"not a MOL2 record: {_mistake(messages)}")
    return _sanitised(molecule, lambda: Chem.MolFromMol2Block(text, removeHs=False))


def raw_outline(text: str, form: Literal["molfile", "mol2"]) -> Molecule | None:
    """The `outline` of a record that RDKit can parse, but not sanitise; None if it cannot even be parsed."""
    parse = Chem.MolFromMol2Block if form == "mol2" else Chem.MolFromMolBlock
    molecule, _ = _parsed(lambda: parse(text, sanitize=False, removeHs=False))
    return None if molecule is None else outline(molecule)


def outline(molecule: Chem.Mol) -> Molecule:
    """The explicit atoms of a molecule that may not be sanitised; bonds that are not double or triple count as single.

    Without a conformer, all positions are zero.
    """
    n = molecule.GetNumAtoms()
    bonds = numpy.zeros((n, n), dtype=numpy.uint8)
    for bond in molecule.GetBonds():
        first, second = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        order = {Chem.BondType.DOUBLE: 2, Chem.BondType.AROMATIC: 2, Chem.BondType.TRIPLE: 3}.get(bond.GetBondType(), 1)
        bonds[first, second] = bonds[second, first] = order
    atoms = list(molecule.GetAtoms())
    conformer = molecule.GetNumConformers() > 0
    return Molecule(
        numpy.array([atom.GetAtomicNum() for atom in atoms], dtype=numpy.uint8),
        charges_of(molecule),
        bonds,
        molecule.GetConformer().GetPositions().astype(numpy.float32) if conformer else numpy.zeros((n, 3), "f4"),
    )


def _sanitised(molecule: Chem.Mol, again: Callable[[], Chem.Mol | None]) -> Chem.Mol:
    """The molecule that `again` parses and sanitises; `molecule` is the same without sanitising."""
    if not molecule.GetNumAtoms():
        raise ValueError("no atoms")
    if reason := too_many_bonds(molecule.GetNumAtoms(), molecule.GetNumBonds()):
        raise ValueError(reason)
    whole, messages = _parsed(again)
    if whole is None:
        problems = Chem.DetectChemistryProblems(molecule)
        raise ValueError(chemistry_fault(problems[0]) if problems else _mistake(messages))
    return whole


def chemistry_fault(problem: Exception) -> str:
    """A problem of `Chem.DetectChemistryProblems` in words: a wrong valence, or rings without a Kekule form.

    Atoms are counted from 1, as in files.
    """
    text = problem.Message()  # type: ignore[attr-defined]
    if found := re.search(r"valence for atom # (\d+) (\w+), (\d+),", text):
        return f"a wrong valence: atom {int(found[1]) + 1} ({found[2]}) has {found[3]} bonds, more than it can have"
    atoms = ", ".join(str(int(word) + 1) for word in re.findall(r"\d+", text))
    if "kekulize" in text.lower():
        return f"no Kekule form: the aromatic atoms {atoms} cannot have alternating single and double bonds"
    if "marked aromatic" in text:
        return f"no Kekule form: atom {atoms} is marked aromatic but lies in no ring"
    return str(text).splitlines()[0]


def _parsed(parse: Callable[[], Chem.Mol | None]) -> tuple[Chem.Mol | None, list[str]]:
    """The result of `parse`, None if it raises; if there is none, with RDKit's messages about the reason."""
    try:
        molecule = parse()
    except _ERRORS:
        molecule = None
    if molecule is not None:
        return molecule, []
    with _messages() as messages:
        try:
            parse()
        except _ERRORS as error:
            messages.append(str(error))
    return None, messages


@contextmanager
def _messages() -> Iterator[list[str]]:
    """The lines that RDKit logs as errors within this context."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.extend(record.getMessage().splitlines())

    before = rdkit.logger.handlers[:]
    rdkit.logger.handlers[:] = [Collect()]
    rdBase.LogToPythonLogger()
    RDLogger.EnableLog("rdApp.error")
    try:
        yield found
    finally:
        RDLogger.DisableLog("rdApp.error")
        rdBase.LogToCppStreams()
        RDLogger.DisableLog("rdApp.*")
        rdkit.logger.handlers[:] = before


def _mistake(messages: list[str]) -> str:
    """The first line of RDKit's messages that has words, without the time and the input that it repeats.

    A failed check of RDKit's own is named together with the line after it, which says what was checked.
    """
    lines = [re.sub(r"^\[\d\d:\d\d:\d\d\] ?", "", line).strip() for line in messages]
    worded = [re.sub(r" for input: .*$", "", line).strip() for line in lines if re.search("[a-z]{2}", line)]
    if not worded:
        return "RDKit gives no reason"
    check = worded[0].endswith(("Violation", "Error"))
    return ": ".join(worded[: 2 if check else 1])[:150]


def _smiles_mistake(messages: list[str]) -> str:
    text = " ".join(messages)
    if found := re.search(r"mistakes around position (\d+)", text):
        return f"its syntax is wrong near character {found[1]}"
    return _mistake([line.replace("SMILES Parse Error: ", "") for line in messages])


def _declared_bonds(text: str) -> tuple[int, int] | None:
    """The numbers of atoms and bonds that a molfile declares; None where they cannot be found."""
    if found := re.search(r"^M  V30 COUNTS\s+(\d+)\s+(\d+)", text, re.MULTILINE):
        return int(found[1]), int(found[2])
    lines = text.split("\n", 4)
    found = re.match(r"([ \d]{3})([ \d]{3})", lines[3]) if len(lines) > 3 else None
    if found is None or not found[1].strip() or not found[2].strip():
        return None
    return int(found[1]), int(found[2])
