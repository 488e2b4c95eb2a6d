"""Readers of a user's files: SDF, and lists of SMILES."""

import csv
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rdkit import Chem

from diffcore.errors import UserError, first_line
from diffcore.system.progress import counter
from diffcore_molecule.data.collection import Entry, entry_of
from diffcore_molecule.data.conformers import ConformerRequest, check_size, generate_conformers
from diffcore_molecule.data.store import Parsed, cached, file_state, key_of, left_out_message, parsed
from diffcore_molecule.options import FileOptions, SmilesOptions
from diffcore_molecule.timeout_pool import Failed, Timeout, processors, timeout_map

SDF_ENDINGS = (".sdf", ".sd", ".sdf.gz")
SMILES_ENDINGS = (".smi", ".smiles", ".csv")


def checked_path(options: FileOptions, name: str, endings: tuple[str, ...]) -> Path:
    """The file that the options name; raises `UserError` if it does not exist, is empty or has another ending."""
    listed = ", ".join(endings)
    if options.path is None:
        raise UserError(f"the data set {name!r} needs `data.path`, a file that ends in {listed}")
    path = Path(options.path)
    if not path.is_file():
        raise UserError(f"no file {path}: `data.path` must be a file that ends in {listed}")
    if not path.name.lower().endswith(endings):
        raise UserError(f"{path}: `data.path` of the data set {name!r} must be a file that ends in {listed}")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty: `data.path` must be a file of molecules")
    return path


def read_sdf(options: FileOptions) -> Parsed:
    """The molecules of an SDF file. The source of a molecule is the number of its record, from 1."""
    path = checked_path(options, "sdf", SDF_ENDINGS)
    key = key_of("sdf", *file_state(path), options.max_atoms, options.time_limit)
    return _read(path, key, "record", lambda: _sdf(path, options))


def read_smiles(options: SmilesOptions) -> Parsed:
    """Conformers of the molecules of a list of SMILES. The source of a molecule is the number of its line, from 1."""
    path = checked_path(options, "smiles", SMILES_ENDINGS)
    chosen = (options.column, options.conformers, options.relax, options.max_atoms, options.time_limit)
    return _read(path, key_of("smiles", *file_state(path), *chosen), "line", lambda: _smiles(path, options))


def _read(path: Path, key: str, unit: str, read: Callable[[], Parsed]) -> Parsed:
    def read_some() -> Parsed:
        try:
            found = read()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        if not len(found):
            left_out = found.left_out
            why = left_out_message(len(left_out), left_out, unit) if left_out else f"there is no {unit} with a molecule"
            raise UserError(f"no molecules in {path}: {why}")
        return found

    return cached(key, read_some)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _sdf(path: Path, options: FileOptions) -> Parsed:
    entries: list[Entry] = []
    left_out: list[tuple[int, str]] = []
    flat: list[ConformerRequest] = []
    with _opened(path) as stream:
        count = sum(line.startswith(b"$$$$") for line in stream)
    with _opened(path) as stream, counter("reading molecules", max(count, 1)) as more:
        for number, molecule in enumerate(_records(stream), start=1):
            more(1)
            try:
                if molecule is None:
                    raise ValueError("RDKit cannot read it")
                check_size(molecule, options.max_atoms)
                if molecule.GetNumConformers() and molecule.GetConformer().Is3D():
                    entries.append(entry_of(number, molecule))
                else:
                    flat.append(ConformerRequest(number, molecule, max_atoms=options.max_atoms))
            except ValueError as error:
                left_out.append((number, first_line(error)))
    _embed(flat, options.time_limit, entries, left_out)
    return parsed(entries, left_out)


def _records(stream: IO[bytes]) -> Iterator[Chem.Mol | None]:
    """The molecules of an SDF file, None for those that RDKit cannot read. Blank lines at the end are ignored."""
    text: list[bytes] = []
    for line in stream:
        if line.startswith(b"$$$$"):
            yield _record(text)
            text = []
        else:
            text.append(line)
    if any(line.strip() for line in text):
        yield _record(text)


def _record(lines: list[bytes]) -> Chem.Mol | None:
    block = b"".join(lines).decode("utf-8", errors="replace").replace("\r\n", "\n")
    molecule: Chem.Mol | None = Chem.MolFromMolBlock(block, sanitize=True, removeHs=False)
    return molecule if molecule is not None and molecule.GetNumAtoms() else None


def _smiles(path: Path, options: SmilesOptions) -> Parsed:
    entries: list[Entry] = []
    left_out: list[tuple[int, str]] = []
    listed = _table(path, options.column) if path.suffix.lower() == ".csv" else _lines(path)
    requests = [
        ConformerRequest(line, text, options.conformers, options.relax, options.max_atoms) for line, text in listed
    ]
    _embed(requests, options.time_limit, entries, left_out)
    return parsed(entries, left_out)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and SMILES: the first word of each line, without empty lines, comments and a header line."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            words = line.split()
            if words and not line.startswith("#") and not (number == 1 and words[0].lower() == "smiles"):
                yield number, words[0]


def _table(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Line numbers and SMILES of a CSV file with a header line."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.DictReader(stream)
        names = [name or "" for name in reader.fieldnames or ()]
        chosen = next((name for name in names if name.strip().lower() == column.lower()), None)
        if chosen is None:
            raise UserError(
                f"{path} has no column {column!r}: `data.column` must name the column of the SMILES, one of "
                f"{', '.join(names)}"
            )
        try:
            for row in reader:
                yield reader.line_num, (row[chosen] or "").strip()
        except csv.Error as error:
            raise UserError(f"line {reader.line_num} of {path} cannot be read as CSV: {error}") from None


def _embed(
    requests: list[ConformerRequest], seconds: float, entries: list[Entry], left_out: list[tuple[int, str]]
) -> None:
    """Generate conformers; add them to `entries`, and the requests that fail to `left_out`, with the reason."""
    if not requests:
        return
    workers = min(processors(), len(requests))
    with counter("generating conformers", len(requests)) as more:
        results = timeout_map(generate_conformers, requests, seconds, workers)
        for request, result in zip(requests, results, strict=True):
            more(1)
            if isinstance(result, Timeout | Failed):
                left_out.append((request.source, str(result)))
            else:
                entries.extend(result)
