"""A user's own molecules: SDF, and lists of SMILES."""

import csv
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rdkit import Chem

from diffcore.errors import UserError, first_line
from diffcore.system.progress import counter
from diffcore_molecule.chemistry.conformers import Order, made, refuse_large
from diffcore_molecule.data.collection import Entry, entry_of
from diffcore_molecule.data.store import Parsed, file_parts, key_of, parsed, remembered, told
from diffcore_molecule.options import FileOptions, SmilesOptions
from diffcore_molecule.timeout_pool import Failed, Timeout, limited_map, processors

SDF_ENDINGS = (".sdf", ".sd", ".sdf.gz")
SMILES_ENDINGS = (".smi", ".smiles", ".csv")


def source(options: FileOptions, name: str, endings: tuple[str, ...]) -> Path:
    """The file that the options name; `UserError` where it is not there, empty or of another kind."""
    listed = ", ".join(endings)
    if options.path is None:
        raise UserError(f"the data set {name!r} needs `data.path` FILE ({listed})")
    path = Path(options.path)
    if not path.is_file():
        raise UserError(f"no file {path}: `data.path` must be a file ({listed})")
    if not path.name.lower().endswith(endings):
        raise UserError(f"{path} is not for the data set {name!r}, which reads {listed}")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty")
    return path


def read_sdf(options: FileOptions) -> Parsed:
    """The molecules of an SDF file, by the numbers of its records from 1."""
    path = source(options, "sdf", SDF_ENDINGS)
    key = key_of("sdf", *file_parts(path), options.max_atoms, options.time_limit)
    return _read(path, key, "record", lambda: _sdf(path, options))


def read_smiles(options: SmilesOptions) -> Parsed:
    """Conformers of the molecules of a list, by the numbers of its lines from 1."""
    path = source(options, "smiles", SMILES_ENDINGS)
    chosen = (options.column, options.conformers, options.relax, options.max_atoms, options.time_limit)
    return _read(path, key_of("smiles", *file_parts(path), *chosen), "line", lambda: _smiles(path, options))


def _read(path: Path, key: str, name: str, read: Callable[[], Parsed]) -> Parsed:
    def some() -> Parsed:
        try:
            found = read()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        if not len(found):
            why = told(len(found.unread), "molecules", found.unread, name) if found.unread else "it holds none"
            raise UserError(f"no molecules in {path}: {why}")
        return found

    return remembered(key, some)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _sdf(path: Path, options: FileOptions) -> Parsed:
    entries: list[Entry] = []
    unread: list[tuple[int, str]] = []
    flat: list[Order] = []
    with _opened(path) as stream:
        count = sum(line.startswith(b"$$$$") for line in stream)
    with _opened(path) as stream, counter("reading molecules", max(count, 1)) as more:
        for number, molecule in enumerate(_records(stream), start=1):
            more(1)
            try:
                if molecule is None:
                    raise ValueError("RDKit cannot read it")
                refuse_large(molecule, options.max_atoms)
                if molecule.GetNumConformers() and molecule.GetConformer().Is3D():
                    entries.append(entry_of(number, molecule))
                else:
                    flat.append(Order(number, molecule, max_atoms=options.max_atoms))
            except ValueError as error:
                unread.append((number, first_line(error)))
    _embed(flat, options.time_limit, entries, unread)
    return parsed(entries, unread)


def _records(stream: IO[bytes]) -> Iterator[Chem.Mol | None]:
    """The molecules of an SDF file, None for those that RDKit cannot read. An empty end is no molecule."""
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
    unread: list[tuple[int, str]] = []
    listed = _table(path, options.column) if path.suffix.lower() == ".csv" else _lines(path)
    orders = [Order(line, text, options.conformers, options.relax, options.max_atoms) for line, text in listed]
    _embed(orders, options.time_limit, entries, unread)
    return parsed(entries, unread)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and SMILES: the first word of each line that is not empty nor a comment; a head is passed over."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            words = line.split()
            if words and not line.startswith("#") and not (number == 1 and words[0].lower() == "smiles"):
                yield number, words[0]


def _table(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Line numbers and SMILES of a table with a head."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.DictReader(stream)
        names = [name or "" for name in reader.fieldnames or ()]
        chosen = next((name for name in names if name.strip().lower() == column.lower()), None)
        if chosen is None:
            raise UserError(f"{path} has no column {column!r}, only {', '.join(names)}: name it with `data.column`")
        try:
            for row in reader:
                yield reader.line_num, (row[chosen] or "").strip()
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}, is not CSV: {error}") from None


def _embed(orders: list[Order], seconds: float, entries: list[Entry], unread: list[tuple[int, str]]) -> None:
    """Add the entries of the conformers, and why there are none."""
    if not orders:
        return
    workers = min(processors(), len(orders))
    with counter("making conformers", len(orders)) as more:
        for order, outcome in zip(orders, limited_map(made, orders, seconds, workers), strict=True):
            more(1)
            if isinstance(outcome, Timeout | Failed):
                unread.append((order.source, str(outcome)))
            else:
                entries.extend(outcome)
