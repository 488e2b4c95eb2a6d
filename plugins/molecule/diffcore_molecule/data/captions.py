"""Captions of molecules: a data field of an SDF file or a column of a table, or sentences that RDKit's answers make."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from diffcore.plugins.captions import cleaned
from diffcore.plugins.ledger import Account
from diffcore.plugins.text import indexed
from diffcore.states.noise import generator_for
from diffcore.system.cache import read_entry, write_entry
from diffcore_molecule.data.collection import Collection, molecules_of, subset, with_implicit_hydrogens
from diffcore_molecule.data.store import PORTION, Parsed, map_portions
from diffcore_molecule.described.judge import VERSION, values_of
from diffcore_molecule.described.sentences import WORDINGS, write

WORDINGS_EACH = 2
"""Sentences of each training molecule that RDKit describes, of which training draws one at random."""


@dataclass(frozen=True)
class Texts:
    """All captions, each once, and their numbers for the training and the held-out molecules, int64 `[n, M]`."""

    texts: tuple[str, ...]
    train: Tensor
    held_out: Tensor


def described(molecules: Parsed, train: numpy.ndarray, held_out: numpy.ndarray, seed: int) -> Texts:
    """Sentences about molecules: two of each in training, which may leave something out, and one of others."""
    table = torch.from_numpy(_values(molecules).astype(numpy.int64))
    values = [dict(zip(WORDINGS, table[rows].unbind(1), strict=True)) for rows in (train, held_out)]
    generator = generator_for(seed, "sentences")
    written = [write(values[0], generator) for _ in range(WORDINGS_EACH)]
    complete = write(values[1], generator, complete=True)
    texts, numbers = indexed([*zip(*written, strict=True), *zip(complete)])
    return Texts(texts, numbers[: len(train)], numbers[len(train) :, :1].contiguous())


def _values(molecules: Parsed) -> numpy.ndarray:
    """What RDKit says of each molecule, int8 `[n, attributes]`, from the cache or computed and cached."""
    place = None if molecules.place is None else molecules.place.with_suffix(f".described_{VERSION}")
    content = None if place is None else read_entry(place)
    if content is not None and len(content) == len(molecules) * len(WORDINGS):
        return numpy.frombuffer(content, dtype=numpy.int8).reshape(len(molecules), len(WORDINGS))
    starts = range(0, len(molecules), PORTION)
    portions = (subset(molecules.collection, start, start + PORTION) for start in starts)
    values = numpy.concatenate([*map_portions(_values_of_portion, portions, len(molecules))])
    if place is not None:
        write_entry(place, numpy.ascontiguousarray(values).tobytes())
    return values


def _values_of_portion(collection: Collection) -> numpy.ndarray:
    molecules = molecules_of(collection, hydrogens=True)
    return numpy.array([values_of(with_implicit_hydrogens(molecule)) for molecule in molecules], dtype=numpy.int8)


def of_file(
    captions: Mapping[int, Sequence[str]],
    molecules: Parsed,
    train: numpy.ndarray,
    held_out: numpy.ndarray,
    unit: str,
    account: Account,
) -> Texts:
    """The captions of a user's molecules, by the numbers of their records or lines, `unit`.

    The account gets what is missing, repeated or too long. There are no texts if no molecule has a caption.
    """
    used = sorted({int(number) for number in molecules.sources[numpy.concatenate([train, held_out])]})
    kept = {number: cleaned(f"{unit} {number}", captions.get(number, ()), account) for number in used}
    if not any(kept.values()):
        kept = {}
    for number, texts in kept.items():
        if not texts:
            account.note(f"{unit} {number}", "without a caption")
    rows = [kept.get(int(number), ()) for part in (train, held_out) for number in molecules.sources[part]]
    texts, numbers = indexed(rows)
    return Texts(texts, numbers[: len(train)], numbers[len(train) :])


def of_records(records: Iterator[tuple[int, str | None]], field: str) -> dict[int, list[str]]:
    """The lines of a data field of the records of an SDF file, by the number of the record; each is a caption."""
    found: dict[int, list[str]] = {}
    for number, text in records:
        if text is not None and (lines := _field(text, field)):
            found[number] = lines
    return found


def _field(record: str, field: str) -> list[str]:
    """The lines of a data field, which begins with a line such as `>  <caption> (3)` and ends at a blank line."""
    lines = iter(record.splitlines())
    for line in lines:
        if line.startswith(">") and line.partition("<")[2].partition(">")[0].strip().lower() == field.lower():
            return [*_until_blank(lines)]
    return []


def _until_blank(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.strip() or line.startswith(">"):
            return
        yield line
