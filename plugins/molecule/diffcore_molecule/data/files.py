"""Readers of a user's files: SDF, molfiles and MOL2 files, and lists and tables of SMILES."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from diffcore.errors import UserError
from diffcore.system.progress import bar
from diffcore_molecule.chemistry.properties import find
from diffcore_molecule.data.blocks import Outcome, forget_blocks, joined, read_blocks
from diffcore_molecule.data.captions import of_records
from diffcore_molecule.data.conformers import Request, entries_of_each
from diffcore_molecule.data.record_texts import mol2_records, sdf_records
from diffcore_molecule.data.smiles_tables import cells_beside, smiles_cells
from diffcore_molecule.data.store import Parsed, cached, file_state, key_of, left_out_message
from diffcore_molecule.data.text import lines_of, opened
from diffcore_molecule.options import USUAL_CAPTION, FileOptions, SmilesOptions
from diffcore_molecule.timeout_pool import map_each, processors


def _with_gz(*endings: str) -> tuple[str, ...]:
    return (*endings, *(f"{ending}.gz" for ending in endings))


SDF_ENDINGS = _with_gz(".sdf", ".sd", ".mol", ".mdl", ".mol2")
SMILES_ENDINGS = _with_gz(".smi", ".smiles", ".csv", ".tsv", ".tab", ".txt")
MOST_FAILURES = 10_000
"""After so many records or lines without a single usable molecule, reading stops."""


def checked_path(options: FileOptions, name: str, endings: tuple[str, ...]) -> Path:
    """The file that the options name; raises `UserError` if it does not exist, is empty or has another ending."""
    listed = ", ".join(ending for ending in endings if not ending.endswith(".gz")) + ", also with .gz"
    if options.path is None:
        raise UserError(f"the data set {name!r} needs `data.path`, a file that ends in {listed}")
    path = Path(options.path)
    if not path.is_file():
        raise UserError(f"no file {path}: `data.path` must be a file that ends in {listed}")
    if not path.name.lower().endswith(endings):
        other = {"sdf": ("smiles", SMILES_ENDINGS), "smiles": ("sdf", SDF_ENDINGS)}[name]
        advice = f"; use the data set {other[0]!r} for it" if path.name.lower().endswith(other[1]) else ""
        raise UserError(f"{path}: `data.path` of the data set {name!r} must be a file that ends in {listed}{advice}")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty: `data.path` must be a file of molecules")
    return path


def read_sdf(options: FileOptions) -> Parsed:
    """The molecules of an SDF or MOL2 file. The source of a molecule is the number of its record, from 1."""
    path = checked_path(options, "sdf", SDF_ENDINGS)
    key = key_of("sdf", *file_state(path), options.max_atoms, options.time_limit, options.salts)
    return _cached(key, path, "record", lambda lines: (_records(path, options, lines), ""), options)


def read_smiles(options: SmilesOptions) -> Parsed:
    """Conformers of the molecules of a list of SMILES. The source of a molecule is the number of its line, from 1."""
    path = checked_path(options, "smiles", SMILES_ENDINGS)
    chosen = (options.column, options.conformers, options.relax, options.max_atoms, options.time_limit, options.salts)
    key = key_of("smiles", *file_state(path), *chosen)
    return _cached(key, path, "line", lambda lines: _lines(path, options, lines), options)


def values_of_file(options: FileOptions, names: Sequence[str]) -> dict[str, dict[int, str]]:
    """What the file of the options says under each of these names, by the number of the record or line.

    They are data fields of SDF records, or columns of a table, in any case. Raises `UserError`, which lists what can be
    named, for a name that is neither there nor a property that can be computed.
    """
    path, found = Path(options.path or ""), {}
    for name in names:
        with opened(path) as (text, _):
            lines = lines_of(text)
            if isinstance(options, SmilesOptions):
                own = {number: cell for number, cell in cells_beside(lines, options.column, name, path) or () if cell}
            elif path.name.lower().removesuffix(".gz").endswith(".mol2"):
                own = {}
            else:
                own = {number: values[0].strip() for number, values in of_records(sdf_records(lines), name).items()}
        if not own:
            where = "column" if isinstance(options, SmilesOptions) else "data field"
            try:
                find(name)
            except UserError as error:
                raise UserError(f"`data.properties`: {path} has no {where} {name!r}, and {error}") from None
        found[name] = own
    return found


def captions_of(options: FileOptions) -> dict[int, list[str]]:
    """The captions in the file of the options, by the number of the record or line.

    They are the lines of the data field `data.caption` of SDF records, or the cell in the column of this name. Raises
    `UserError` if there is none and the options name another one than usual.
    """
    path = Path(options.path or "")
    found: dict[int, list[str]] = {}
    with opened(path) as (text, _):
        lines = lines_of(text)
        if isinstance(options, SmilesOptions):
            cells = cells_beside(lines, options.column, options.caption, path)
            found = {number: [cell] for number, cell in cells or () if cell}
        elif not path.name.lower().removesuffix(".gz").endswith(".mol2"):
            found = of_records(sdf_records(lines), options.caption)
    if not found and options.caption.lower() != USUAL_CAPTION:
        where = "column" if isinstance(options, SmilesOptions) else "data field of a record"
        raise UserError(f"{path} has no captions: `data.caption` {options.caption!r} is the name of no {where}")
    return found


def _records(path: Path, options: FileOptions, lines: Iterable[str]) -> Iterator[Request]:
    mol2 = path.name.lower().removesuffix(".gz").endswith(".mol2")
    for number, text in (mol2_records if mol2 else sdf_records)(lines):
        form = "mol2" if mol2 else "molfile"
        yield Request(number, text, form, max_atoms=options.max_atoms, salts=options.salts)  # type: ignore[arg-type]


def _lines(path: Path, options: SmilesOptions, lines: Iterable[str]) -> tuple[Iterator[Request], str]:
    layout, cells = smiles_cells(lines, options.column, path)
    requests = (
        Request(number, text, "smiles", options.conformers, options.relax, options.max_atoms, options.salts)
        for number, text in cells
    )
    return requests, layout.note()


Opened = Callable[[Iterator[str]], tuple[Iterator[Request], str]]
"""What makes requests of the lines of a file, and a note for the user."""


def _cached(key: str, path: Path, unit: str, requests_of: Opened, options: FileOptions) -> Parsed:
    """The molecules of a file, or of its first `data.limit` records or lines, from the cache or read."""
    whole = key if options.limit is None else f"{key}-{options.limit}"
    return cached(whole, lambda: _read(key, path, unit, requests_of, options))


def _read(key: str, path: Path, unit: str, requests_of: Opened, options: FileOptions) -> Parsed:
    """The molecules of a file, read in worker processes. Raises `UserError` with the reasons if there are none.

    Blocks of the file that an interrupted reading has cached under `key` are not read again.
    """
    with opened(path) as (text, done), bar(f"reading {path.name}") as report:
        requests, note = requests_of(lines_of(text))

        def work(missing: Iterator[Request]) -> Iterable[tuple[Request, Outcome]]:
            return map_each(entries_of_each, portions(missing), options.time_limit, processors())

        def go_on(handled: int, molecules: int, left_out: int) -> bool:
            share = 0.0 if options.limit is None else handled / options.limit
            report(max(done(), share), f"{molecules} molecules")
            return molecules > 0 or left_out < MOST_FAILURES

        parts = read_blocks(key, islice(requests, options.limit), work, go_on)
    left_out = [item for part in parts for item in part.left_out]
    if not any(map(len, parts)):
        why = left_out_message(len(left_out), left_out, unit) if left_out else f"there is no {unit} with a molecule"
        raise UserError(f"no molecules in {path}: {why}")
    whole = joined(parts, [f"{path.name}: {note}"] if note else [])
    if options.limit is None:
        forget_blocks(key, len(parts))
    return whole


PORTION, PORTION_TEXT = 16, 2**20
"""The largest number of records that a worker gets at once, and how many characters end a portion."""


class _OfText(Protocol):
    @property
    def text(self) -> str | None: ...

    @property
    def form(self) -> str: ...


Read = TypeVar("Read", bound=_OfText)


def portions(requests: Iterator[Read]) -> Iterator[list[Read]]:
    """Portions of records; conformers of SMILES take longer, so each is a portion of its own."""
    portion: list[Read] = []
    characters = 0
    for request in requests:
        portion.append(request)
        characters += len(request.text or "")
        if request.form == "smiles" or len(portion) == PORTION or characters > PORTION_TEXT:
            yield portion
            portion, characters = [], 0
    if portion:
        yield portion
