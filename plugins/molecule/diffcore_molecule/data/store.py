"""A cache of parsed molecules and of their properties, as memory-mapped arrays."""

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
from diffcore_molecule.data.collection import (
    Collection,
    Entry,
    collect,
    molecules_of,
    subset,
    with_implicit_hydrogens,
)
from diffcore_molecule.timeout_pool import Failed, Timeout, processors, timeout_map

Item = TypeVar("Item")
Result = TypeVar("Result")

VERSION = 1
"""The version of the parsers. Increase it when they produce other arrays from the same file, to renew the cache."""
PORTION = 500
"""The number of molecules that are processed at a time."""
PORTION_SECONDS = 600.0
"""The time limit for processing them."""
MIN_FOR_WORKERS = 5000
"""The smallest number of molecules for which worker processes are used."""


@dataclass(frozen=True)
class Parsed:
    """The molecules of a file, and what the file says about each."""

    collection: Collection
    sources: numpy.ndarray
    """The number of each molecule's record or line in the file, `[n]`."""
    identities: numpy.ndarray
    """The `molecules.identity` of each molecule, `[n]`."""
    left_out: tuple[tuple[int, str], ...] = ()
    """The numbers of records or lines that are left out, with the reasons."""
    columns: Mapping[str, numpy.ndarray] = field(default_factory=dict)
    """Properties `[n]` that the file contains."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""
    folder: Path | None = None
    """The folder in the cache; None if the molecules are not cached."""

    def __len__(self) -> int:
        return len(self.collection)


def parsed(entries: Sequence[Entry], left_out: Sequence[tuple[int, str]]) -> Parsed:
    """Join entries, in the order of the file."""
    ordered = sorted(entries, key=lambda item: item.source)
    return Parsed(
        collect(item.molecule for item in ordered),
        numpy.array([item.source for item in ordered], dtype=numpy.int64),
        numpy.array([item.identity for item in ordered], dtype=numpy.int64),
        tuple(sorted(left_out)),
    )


def key_of(*parts: object) -> str:
    """A cache key: a hash of `parts`, of the version of the parsers and of RDKit's version."""
    text = json.dumps([VERSION, rdkit.__version__, *parts], default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def file_state(path: Path) -> list[object]:
    """The parts of a cache key that change when the file changes: path, size, time of the last modification."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def cached(key: str, read: Callable[[], Parsed]) -> Parsed:
    """The molecules in the cache under `key`; if there are none, or they are damaged, `read()`, which is then cached.

    The folder is written under a temporary name and renamed, so it never exists in part. If it cannot be written, a
    note of the result says so.
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
            fresh, f"the molecules cannot be cached in {folder.parent} ({error}): they are read again each time"
        )


def _with_note(molecules: Parsed, note: str) -> Parsed:
    return Parsed(**{**vars(molecules), "notes": (*molecules.notes, note)})


def _save(molecules: Parsed, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        arrays = molecules.collection.arrays() | {"sources": molecules.sources, "identities": molecules.identities}
        for name, array in arrays.items():
            numpy.save(temporary / f"{name}.npy", array, allow_pickle=False)
        (temporary / "columns").mkdir()
        for name, array in molecules.columns.items():
            numpy.save(temporary / "columns" / f"{name}.npy", array, allow_pickle=False)
        about = {"left_out": molecules.left_out, "notes": molecules.notes, "columns": list(molecules.columns)}
        (temporary / "about.json").write_text(json.dumps(about))
        if folder.exists():  # it is damaged, or another process has written it in the meantime
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _array(path: Path, length: int | None = None) -> numpy.ndarray:
    array = numpy.asarray(numpy.load(path, mmap_mode="r", allow_pickle=False))
    if length is not None and array.shape[:1] != (length,):
        raise ValueError(f"{path} has a wrong length")
    return array


def _column(path: Path, length: int) -> numpy.ndarray:
    array = _array(path, length)
    if array.shape != (length,) or array.dtype != numpy.float32:
        raise ValueError(f"{path} does not contain the values of a property")
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
        tuple((int(source), str(why)) for source, why in about["left_out"]),
        {name: _column(folder / "columns" / f"{name}.npy", len(sizes)) for name in about["columns"]},
        tuple(about["notes"]),
        folder,
    )


def check_names(names: Sequence[str], known: Sequence[str] = ()) -> None:
    """Check, before the molecules are read, that each name is a property of any molecule or one of `known`.

    Raises `UserError` if a name is unknown or occurs twice.
    """
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UserError(f"`data.properties` names {name!r} twice")
        if name not in known:
            try:
                properties.find(name)
            except UserError as error:
                raise UserError(f"`data.properties`: {error}") from None


def property_values(molecules: Parsed, names: Sequence[str]) -> numpy.ndarray:
    """The properties `[n, P]`, float32, NaN where undefined: from the file, from the cache, or computed and cached.

    Properties that users registered in this process are never cached, since their functions may change.
    """
    found = {name: molecules.columns[name] for name in names if name in molecules.columns}
    if molecules.folder is not None:
        for name in names:
            if name not in found and properties.is_stable(name):
                with suppress(OSError, ValueError, EOFError):
                    found[name] = _column(molecules.folder / f"property_{name}.npy", len(molecules))
    rest = [name for name in names if name not in found]
    if rest:
        for name, column in zip(rest, _measure(molecules.collection, rest).T, strict=True):
            found[name] = column
            if molecules.folder is not None and properties.is_stable(name):
                with suppress(OSError):
                    _save_column(molecules.folder / f"property_{name}.npy", column)
    columns = [numpy.asarray(found[name], dtype=numpy.float32) for name in names]
    return numpy.stack(columns, 1) if columns else numpy.empty((len(molecules), 0), dtype=numpy.float32)


def _save_column(path: Path, column: numpy.ndarray) -> None:
    content = io.BytesIO()
    numpy.save(content, column, allow_pickle=False)
    write_atomically(path, content.getvalue())


def _measure(collection: Collection, names: Sequence[str]) -> numpy.ndarray:
    starts = range(0, len(collection), PORTION)
    portions = ((subset(collection, start, start + PORTION), tuple(names)) for start in starts)
    stable = all(properties.is_stable(name) for name in names)  # others do not exist in worker processes
    rows = []
    with counter("computing properties", len(collection)) as more:
        for values in map_portions(measure_portion, portions, len(collection) if stable else 0):
            rows.append(values)
            more(len(values))
    return numpy.concatenate(rows)


def measure_portion(portion: tuple[Collection, tuple[str, ...]]) -> numpy.ndarray:
    """The properties `[n, P]` of the molecules of a collection, given with the names of the properties."""
    collection, names = portion
    molecules = molecules_of(collection, hydrogens=True)
    rows = [properties.measure(with_implicit_hydrogens(molecule), names) for molecule in molecules]
    return numpy.array(rows, dtype=numpy.float32)


def map_portions(function: Callable[[Item], Result], portions: Iterator[Item], count: int) -> Iterator[Result]:
    """`function` of each portion; in worker processes if there are at least `MIN_FOR_WORKERS` molecules in total."""
    workers = processors()
    if count < MIN_FOR_WORKERS or workers < 2:
        yield from map(function, portions)
        return
    for result in timeout_map(function, portions, PORTION_SECONDS, workers):
        if isinstance(result, Timeout | Failed):
            raise RuntimeError(f"processing {PORTION} molecules failed: {result}")
        yield result


def left_out_message(count: int, left_out: Sequence[tuple[int, str]], unit: str, shown: int = 5) -> str:
    """A line that says how many of `count` molecules are left out, with the numbers and reasons of the first ones.

    `unit` is what the numbers count: "record" or "line".
    """
    listed = ", ".join(f"{unit} {source} ({why})" for source, why in left_out[:shown])
    more = f" and {len(left_out) - shown} more" if len(left_out) > shown else ""
    return f"{len(left_out)} of {count} molecules are left out: {listed}{more}"
