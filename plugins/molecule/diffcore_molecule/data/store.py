"""What was read and measured once, kept in the cache as memory-mapped arrays."""

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy
import rdkit

from diffcore.errors import UserError
from diffcore.system.cache import cache_folder
from diffcore.system.files import write_atomically
from diffcore.system.progress import counter
from diffcore_molecule.chemistry import properties
from diffcore_molecule.data.collection import Collection, Entry, collect, implied, molecules_of, part
from diffcore_molecule.timeout_pool import Failed, Timeout, limited_map, processors

Item = TypeVar("Item")
Result = TypeVar("Result")

RECIPE = 1
"""To be raised when other arrays come from the same file than before."""
PORTION = 500
"""How many molecules are worked on at a time."""
PORTION_SECONDS = 600.0
"""What that may take."""
MANY = 5000
"""From so many molecules on, worker processes pay."""


@dataclass(frozen=True)
class Parsed:
    """The molecules of a source, and what is known of each."""

    collection: Collection
    sources: numpy.ndarray
    """Which of the source each is, `[n]`: the number that people find it by."""
    identities: numpy.ndarray
    """`molecules.identity` of each, `[n]`."""
    unread: tuple[tuple[int, str], ...] = ()
    """Those of the source that are left out, and why."""
    columns: Mapping[str, numpy.ndarray] = field(default_factory=dict)
    """Properties `[n]` that the source itself gives."""
    notes: tuple[str, ...] = ()
    kept: Path | None = None
    """Where it is kept; None where it is not."""

    def __len__(self) -> int:
        return len(self.collection)


def parsed(entries: Sequence[Entry], unread: Sequence[tuple[int, str]]) -> Parsed:
    """Entries as one, in the order of the source."""
    ordered = sorted(entries, key=lambda item: item.source)
    return Parsed(
        collect(item.molecule for item in ordered),
        numpy.array([item.source for item in ordered], dtype=numpy.int64),
        numpy.array([item.identity for item in ordered], dtype=numpy.int64),
        tuple(sorted(unread)),
    )


def key_of(*parts: object) -> str:
    """A name for what is made of these: a hash of them, of this recipe and of RDKit's version."""
    text = json.dumps([RECIPE, rdkit.__version__, *parts], default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def file_parts(path: Path) -> list[object]:
    """What changes where the file does: path, size, time of the last change."""
    about = path.stat()
    return [str(path.resolve()), about.st_size, about.st_mtime_ns]


def remembered(key: str, read: Callable[[], Parsed]) -> Parsed:
    """What `read` gives, from the cache where it is there and whole; put there otherwise.

    The folder is made under another name and renamed, so it is whole or not there. Where it cannot be written,
    a note says so.
    """
    folder = cache_folder() / "molecules" / key
    with suppress(OSError, ValueError, KeyError, TypeError, EOFError):
        return _load(folder)
    fresh = read()
    try:
        _save(fresh, folder)
        return _load(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _with_note(
            fresh, f"the molecules cannot be kept in {folder.parent} ({error}): they are read anew each time"
        )


def _with_note(molecules: Parsed, note: str) -> Parsed:
    return Parsed(**{**vars(molecules), "notes": (*molecules.notes, note)})


def _save(molecules: Parsed, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        arrays = molecules.collection.arrays() | {"sources": molecules.sources, "identities": molecules.identities}
        for name, array in arrays.items():
            numpy.save(made / f"{name}.npy", array, allow_pickle=False)
        (made / "columns").mkdir()
        for name, array in molecules.columns.items():
            numpy.save(made / "columns" / f"{name}.npy", array, allow_pickle=False)
        about = {"unread": molecules.unread, "notes": molecules.notes, "columns": list(molecules.columns)}
        (made / "about.json").write_text(json.dumps(about))
        if folder.exists():  # damaged, or of another process that was quicker
            shutil.rmtree(folder)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _array(path: Path, length: int | None = None) -> numpy.ndarray:
    array = numpy.asarray(numpy.load(path, mmap_mode="r", allow_pickle=False))
    if length is not None and array.shape[:1] != (length,):
        raise ValueError(f"{path} is of another length")
    return array


def _column(path: Path, length: int) -> numpy.ndarray:
    array = _array(path, length)
    if array.shape != (length,) or array.dtype != numpy.float32:
        raise ValueError(f"{path} holds no values of a property")
    return array


def _load(folder: Path) -> Parsed:
    about = json.loads((folder / "about.json").read_text())
    sizes, bond_counts = _array(folder / "sizes.npy"), _array(folder / "bond_counts.npy")
    lengths = {"sizes": len(sizes), "bond_counts": len(sizes), "bonds": int(bond_counts.sum(dtype=numpy.int64))}
    atoms = int(sizes.sum(dtype=numpy.int64))
    names = [item.name for item in fields(Collection)]
    return Parsed(
        Collection(**{name: _array(folder / f"{name}.npy", lengths.get(name, atoms)) for name in names}),
        _array(folder / "sources.npy", len(sizes)),
        _array(folder / "identities.npy", len(sizes)),
        tuple((int(source), str(why)) for source, why in about["unread"]),
        {name: _column(folder / "columns" / f"{name}.npy", len(sizes)) for name in about["columns"]},
        tuple(about["notes"]),
        folder,
    )


def check_names(names: Sequence[str], known: Sequence[str] = ()) -> None:
    """Make sure that all are properties, of every molecule or among `known`, before work begins."""
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UserError(f"the property {name!r} is asked for twice")
        if name not in known:
            properties.find(name)


def measured(molecules: Parsed, names: Sequence[str]) -> numpy.ndarray:
    """The properties `[n, P]`, float32, NaN where undefined: from the source, from the cache, or measured and kept.

    Those that users registered in this process are measured each time, since their functions may change.
    """
    found = {name: molecules.columns[name] for name in names if name in molecules.columns}
    if molecules.kept is not None:
        for name in names:
            if name not in found and properties.is_stable(name):
                with suppress(OSError, ValueError, EOFError):
                    found[name] = _column(molecules.kept / f"property_{name}.npy", len(molecules))
    rest = [name for name in names if name not in found]
    if rest:
        for name, column in zip(rest, _measure(molecules.collection, rest).T, strict=True):
            found[name] = column
            if molecules.kept is not None and properties.is_stable(name):
                with suppress(OSError):
                    _keep(molecules.kept / f"property_{name}.npy", column)
    columns = [numpy.asarray(found[name], dtype=numpy.float32) for name in names]
    return numpy.stack(columns, 1) if columns else numpy.empty((len(molecules), 0), dtype=numpy.float32)


def _keep(path: Path, column: numpy.ndarray) -> None:
    content = io.BytesIO()
    numpy.save(content, column, allow_pickle=False)
    write_atomically(path, content.getvalue())


def _measure(collection: Collection, names: Sequence[str]) -> numpy.ndarray:
    starts = range(0, len(collection), PORTION)
    portions = ((part(collection, start, start + PORTION), tuple(names)) for start in starts)
    elsewhere = all(properties.is_stable(name) for name in names)
    rows = []
    with counter("measuring molecules", len(collection)) as more:
        for values in in_portions(measure_portion, portions, len(collection) if elsewhere else 0):
            rows.append(values)
            more(len(values))
    return numpy.concatenate(rows)


def measure_portion(order: tuple[Collection, tuple[str, ...]]) -> numpy.ndarray:
    """Properties `[n, P]` of the molecules of a collection."""
    collection, names = order
    rows = [properties.measure(implied(molecule), names) for molecule in molecules_of(collection, hydrogens=True)]
    return numpy.array(rows, dtype=numpy.float32)


def in_portions(function: Callable[[Item], Result], portions: Iterator[Item], count: int) -> Iterator[Result]:
    """`function` of each portion; in worker processes where all of them hold `MANY` molecules or more."""
    workers = processors()
    if count < MANY or workers < 2:
        yield from map(function, portions)
        return
    for outcome in limited_map(function, portions, PORTION_SECONDS, workers):
        if isinstance(outcome, Timeout | Failed):
            raise RuntimeError(f"{PORTION} molecules could not be worked on: {outcome}")
        yield outcome


def told(count: int, what: str, unread: Sequence[tuple[int, str]], name: str, shown: int = 5) -> str:
    """How many could not be read, and the first of them by number and reason."""
    listed = ", ".join(f"{name} {source} ({why})" for source, why in unread[:shown])
    more = f" and {len(unread) - shown} more" if len(unread) > shown else ""
    return f"{len(unread)} of {count} {what} could not be read: {listed}{more}"
