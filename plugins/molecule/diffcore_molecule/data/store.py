"""A cache of parsed molecules and of their properties."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy
import rdkit
from safetensors import SafetensorError
from safetensors.numpy import load, save

from diffcore.errors import UserError, first_line
from diffcore.system.cache import cache_folder, read_entry, tell_damage, write_entry
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

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

VERSION = 2
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
    changed: tuple[tuple[int, str], ...] = ()
    """The numbers of records or lines whose molecules were changed, and what was done to them."""
    columns: Mapping[str, numpy.ndarray] = field(default_factory=dict)
    """Properties `[n]` that the file contains."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""
    place: Path | None = None
    """Their entry in the cache; None if the molecules are not cached."""

    def __len__(self) -> int:
        return len(self.collection)


def parsed(entries: Sequence[Entry], left_out: Sequence[tuple[int, str]], notes: Sequence[str] = ()) -> Parsed:
    """Join entries, in the order of the file."""
    ordered = sorted(entries, key=lambda item: item.source)
    return Parsed(
        collect(item.molecule for item in ordered),
        numpy.array([item.source for item in ordered], dtype=numpy.int64),
        numpy.array([item.identity for item in ordered], dtype=numpy.int64),
        tuple(sorted(left_out)),
        tuple(sorted({(item.source, change) for item in ordered for change in item.changes})),
        notes=tuple(notes),
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

    If the cache cannot be written, a note of the result says so.
    """
    place = place_of(key)
    if (known := read_parsed(place)) is not None:
        return known
    fresh = read()
    if write_parsed(place, fresh):
        return replace(fresh, place=place)
    note = f"the molecules cannot be cached in {place.parent}: they are read again each time"
    return replace(fresh, notes=(*fresh.notes, note))


def place_of(key: str) -> Path:
    """The cache entry of this key."""
    return cache_folder() / "molecules" / f"{key}.molecules"


def read_parsed(place: Path) -> Parsed | None:
    """The molecules of a cache entry; None if there is none, or if it is damaged, which is logged."""
    content = read_entry(place)
    if content is None:
        return None
    try:
        return _unpacked(content, place)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        tell_damage(place, first_line(error))
        return None


def write_parsed(place: Path, molecules: Parsed) -> bool:
    """Write molecules as a cache entry, and return whether that was possible."""
    return write_entry(place, _packed(molecules))


_COLUMN = "column:"
"""The beginning of the names under which properties of the file are stored."""


def _packed(molecules: Parsed) -> bytes:
    arrays = molecules.collection.arrays() | {"sources": molecules.sources, "identities": molecules.identities}
    arrays |= {f"{_COLUMN}{name}": values for name, values in molecules.columns.items()}
    about = {"left_out": molecules.left_out, "changed": molecules.changed, "notes": molecules.notes}
    tensors = {name: numpy.ascontiguousarray(array) for name, array in arrays.items()}
    text = numpy.frombuffer(json.dumps(about).encode(), dtype=numpy.uint8)
    return bytes(save({**tensors, "about": text}))


def _unpacked(content: bytes, place: Path) -> Parsed:
    """The molecules of a cache entry. Raises `ValueError` if arrays do not fit together or are not finite."""
    arrays = load(content)
    about = json.loads(arrays.pop("about").tobytes())
    columns = {name[len(_COLUMN) :]: arrays.pop(name) for name in list(arrays) if name.startswith(_COLUMN)}
    sources, identities = arrays.pop("sources"), arrays.pop("identities")
    collection = Collection(**{item.name: arrays[item.name] for item in fields(Collection)})
    n = len(collection)
    atoms = int(collection.sizes.sum(dtype=numpy.int64))
    lengths = [(sources, n), (identities, n), (collection.bond_counts, n), (collection.positions, atoms)]
    lengths += [(collection.numbers, atoms), (collection.charges, atoms), *((column, n) for column in columns.values())]
    lengths.append((collection.bonds, int(collection.bond_counts.sum(dtype=numpy.int64))))
    if any(len(array) != length for array, length in lengths) or not numpy.isfinite(collection.positions).all():
        raise ValueError("arrays that do not fit together")
    left_out, changed = (
        tuple((int(source), str(text)) for source, text in about[key]) for key in ("left_out", "changed")
    )
    return Parsed(collection, sources, identities, left_out, changed, columns, tuple(about["notes"]), place)


def without_function(names: Sequence[str]) -> list[str]:
    """Those of the names that no property of RDKit or of a user has, so that a file must have their values."""
    found = []
    for name in names:
        try:
            properties.find(name)
        except UserError:
            found.append(name)
    return found


def check_names(names: Sequence[str], known: Sequence[str] = ()) -> None:
    """Check, before the molecules are read, that each name is a property of any molecule or one of `known`.

    `known` are those whose values are in the file. Names with two meanings are logged as warnings. Raises `UserError`
    if a name is unknown or occurs twice.
    """
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UserError(f"`data.properties` names {name!r} twice")
        if name not in known:
            try:
                properties.find(name)
            except UserError as error:
                raise UserError(f"`data.properties`: {error}") from None
        if message := properties.clash(name, of_file=name in known):
            logger.warning(message)


def property_values(molecules: Parsed, names: Sequence[str]) -> numpy.ndarray:
    """The properties `[n, P]`, float32, NaN where undefined: from the file, from the cache, or computed and cached.

    Properties that users registered in this process are never cached, since their functions may change.
    """
    found = {name: molecules.columns[name] for name in names if name in molecules.columns}
    for name in names:
        if name not in found and (values := _cached_column(molecules, name)) is not None:
            found[name] = values
    rest = [name for name in names if name not in found]
    if rest:
        for name, column in zip(rest, _measure(molecules.collection, rest).T, strict=True):
            found[name] = column
            if (place := _column_place(molecules, name)) is not None:
                write_entry(place, numpy.ascontiguousarray(column, dtype=numpy.float32).tobytes())
    columns = [numpy.asarray(found[name], dtype=numpy.float32) for name in names]
    return numpy.stack(columns, 1) if columns else numpy.empty((len(molecules), 0), dtype=numpy.float32)


def _column_place(molecules: Parsed, name: str) -> Path | None:
    """The cache entry of a property; None if its values are not cached."""
    if molecules.place is None or not properties.is_stable(name):
        return None
    return molecules.place.with_suffix(f".property_{name}")


def _cached_column(molecules: Parsed, name: str) -> numpy.ndarray | None:
    place = _column_place(molecules, name)
    content = None if place is None else read_entry(place)
    if content is None or len(content) != 4 * len(molecules):
        return None
    return numpy.frombuffer(content, dtype=numpy.float32)


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
            raise UserError(f"computing properties of {PORTION} molecules failed: {result}")
        yield result


def left_out_message(count: int, left_out: Sequence[tuple[int, str]], unit: str, shown: int = 5) -> str:
    """A line that says how many of `count` molecules are left out, by reason, with the numbers of the first ones.

    `unit` is what the numbers count: "record" or "line".
    """
    reasons = by_reason(left_out, unit)
    more = f"; and {len(reasons) - shown} other reasons" if len(reasons) > shown else ""
    return f"{len(left_out)} of {count} molecules are left out: {'; '.join(reasons[:shown])}{more}"


def by_reason(sources: Sequence[tuple[int, str]], unit: str, shown: int = 5) -> list[str]:
    """For each reason a line with the numbers of the records or lines that it is given for, most frequent first."""
    grouped: dict[str, list[int]] = {}
    for source, why in sources:
        grouped.setdefault(why, []).append(source)

    def line(why: str, numbers: list[int]) -> str:
        more = f" and {len(numbers) - shown} more" if len(numbers) > shown else ""
        return f"{why} ({unit}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:shown]))}{more})"

    return [line(why, numbers) for why, numbers in sorted(grouped.items(), key=lambda item: -len(item[1]))]
