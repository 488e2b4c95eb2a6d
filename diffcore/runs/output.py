"""Writes samples to files while they are drawn, so that an interruption loses at most one batch.

A folder of samples contains one file per sample, an overview of the first ones in a folder of its own, and
`recipe.json`, which says from what the samples were drawn. A call with the same recipe draws the files that are
missing; another recipe is refused. While samples are drawn, the hidden folder `.drawing` holds the states that the
overview needs and the files that are not complete. If all samples go to one file, the states of all samples are kept
in such a folder beside it, until the file is written.

A sample is drawn in the same batch in an interrupted and in an uninterrupted call, so that it is equal in every bit, if
the number of processes is the same; batches of which all samples are there are not drawn.

Files are written under another name and renamed, so a file with the name of a sample is complete. An empty file, which
a power failure may leave, counts as missing.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins.data import Encoded
from diffcore.runs.coding import decode
from diffcore.runs.drawing import Drawing
from diffcore.runs.generation import batch_size_of
from diffcore.runs.kept_states import KeptBatches, first_samples, joined_files, keep, kept_files, kept_rows
from diffcore.runs.model import Model
from diffcore.runs.place import Place, claimed, read_record
from diffcore.runs.samples import (
    MOST_SHOWN,
    beside,
    is_single_file,
    overview_of,
    require_few,
    write_each,
    write_overview,
)
from diffcore.sampling.loop import in_batches
from diffcore.states.state import fields
from diffcore.system.distributed import by_leader, from_leader, leads, shares_of, world
from diffcore.system.files import write_json

logger = logging.getLogger(__name__)

MOST_KEPT = 1000
"""The summary describes at most so many samples of a folder, the first ones."""
_KEPT_BYTES = 256 * 2**20
"""Memory for the states of these samples, at most."""


@dataclass(frozen=True)
class Written:
    """What a call wrote.

    * `out`: the folder or the file; `overview`: the file that shows the first `shown` of the `n` samples.
    * `earlier`: how many samples an earlier call had drawn.
    * `summary`: lines that compare what was requested with what was obtained.
    """

    out: Path
    overview: Path
    n: int
    shown: int
    earlier: int
    summary: tuple[str, ...]


def write_samples(
    drawing: Drawing, out: Path, replace: bool = False, after_batch: Callable[[int, int], None] = lambda done, of: None
) -> Written | None:
    """Draw samples and write them to `out` batch by batch: a folder, or one file that holds all of them.

    Samples that an earlier call with the same recipe wrote are not drawn again. With several processes, each draws
    batches of its own; the leader writes the files and gets the result. `after_batch` receives how many samples are
    drawn, and how many there are to draw.

    Raises `UserError` if `out` contains anything else, unless these are samples and `replace` is true; if another
    command is writing there; and if there are too many samples for a picture of all.
    """
    writer = drawing.writer
    single = is_single_file(out, drawing.model, writer)
    if single:
        require_few(writer, out, drawing.n)
    place = Place(out, single)
    kept = drawing.n if single else min(drawing.n, _most_kept(drawing.model))
    with contextlib.ExitStack() as stack:
        by_leader(lambda: stack.enter_context(claimed(place, drawing, replace)))
        complete = from_leader(lambda: _is_complete(place, drawing, writer))
        kept = 0 if complete else kept
        rows, earlier = from_leader(lambda: _missing(place, drawing, kept))
        done = 0
        try:
            wanted, size = set(rows), batch_size_of(drawing.model, drawing.config)
            batches, states = _batches(drawing.n, size, wanted), kept_rows(place.parts)
            for start in range(0, len(batches), world()):
                parts = batches[start : start + world()]
                drawn = drawing.draw_parts(parts)
                for part, encoded in zip(parts, drawn or (), strict=False):
                    _write_batch(
                        place,
                        drawing,
                        writer,
                        part,
                        encoded,
                        wanted,
                        [row for row in part if row < kept and row not in states],
                    )
                done += sum(row in wanted for part in parts for row in part)
                after_batch(done, len(rows))
        except KeyboardInterrupt:
            logger.info(f"{place.out}: {earlier + done} of {drawing.n} samples are drawn; the same call draws the rest")
            raise
        if not leads():
            return None
        overview = place.out if single else _overview(place, writer)
        summary = _finish(place, drawing, writer, kept, overview)
        shown = drawing.n if single else min(MOST_SHOWN, drawing.n)
        return Written(out, overview, drawing.n, shown, earlier, tuple(summary))


def _most_kept(model: Model) -> int:
    """The number of samples that the summary of a folder describes."""
    size = sum(field[:1].numel() * field.element_size() for field in fields(model.codec.space.empty(1)).values())
    return max(1, min(MOST_KEPT, _KEPT_BYTES // max(size, 1)))


def _listed(folder: Path, drawing: Drawing) -> Iterator[tuple[str, frozenset[str]]]:
    """The name of the file of each sample, and the names of the files that are there with its number."""
    there: dict[int, set[str]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if (found := re.match(r"\d{4,}(?=[-.])", entry.name)) and entry.stat().st_size:
                there.setdefault(int(found[0]), set()).add(entry.name)
    for rows in in_batches(range(drawing.n), 1000):
        for row, name in zip(rows, drawing.names(rows), strict=True):
            yield name, frozenset(there.get(row, ()))


def _is_there(folder: Path, item: tuple[str, frozenset[str]]) -> bool:
    """Whether the file of a sample is there. Raises `UserError` if its number has another name."""
    name, names = item
    if not names:
        return False
    if not any(found.startswith(f"{name}.") for found in names):
        raise UserError(
            f"{folder} contains {sorted(names)[0]}, where this call would write {name}: choose another `out`, or "
            "draw as many samples as before"
        )
    return True


def _overview(place: Place, writer: Any) -> Path:
    """The file in a folder of samples that shows the first of them."""
    return overview_of(place.out, writer)


def _is_complete(place: Place, drawing: Drawing, writer: Any) -> bool:
    """Whether an earlier call has drawn all of these samples and has written the overview."""
    if place.single or not _overview(place, writer).is_file():
        return False
    complete = read_record(place).get("complete")
    return isinstance(complete, int) and complete >= drawing.n


def _missing(place: Place, drawing: Drawing, kept: int) -> tuple[list[int], int]:
    """The samples that must be drawn, and the number of those that an earlier call has written.

    Besides samples whose files are missing, these are samples of the overview whose states are not kept any more.
    """
    states = kept_rows(place.parts)
    if place.single:
        missing = [row for row in range(drawing.n) if row not in states]
        return missing, drawing.n - len(missing)
    there = [_is_there(place.out, item) for item in _listed(place.out, drawing)]
    return [row for row, found in enumerate(there) if not found or (row < kept and row not in states)], sum(there)


def _batches(n: int, size: int, wanted: Set[int]) -> list[range]:
    """The batches of at most `size` of `n` samples that hold any of those that are wanted.

    Which batches there are does not depend on what is wanted, as the last bits of a sample depend on its batch. They
    are those in which several processes draw all samples from the first one on.
    """
    batches = []
    for start in range(0, n, size * world()):
        rows = range(start, min(start + size * world(), n))
        batches += [rows[share.start : share.stop] for share in shares_of(len(rows)) if len(share)]
    return [batch for batch in batches if any(row in wanted for row in batch)]


def _runs(rows: Sequence[int]) -> Iterator[range]:
    """The rows in parts without gaps."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            yield range(rows[start], rows[end - 1] + 1)
            start = end


def _rows_of(encoded: Encoded, batch: range, rows: range) -> Encoded:
    """Some consecutive rows of the samples of a batch."""
    chosen = slice(rows.start - batch.start, rows.stop - batch.start)
    conditions = {name: value[chosen] for name, value in encoded.conditions.items()}
    return Encoded(encoded.state[chosen], conditions, None if encoded.mask is None else encoded.mask[chosen])


def _write_batch(
    place: Place,
    drawing: Drawing,
    writer: Any,
    batch: range,
    encoded: Encoded | None,
    wanted: Set[int],
    kept: Sequence[int],
) -> None:
    """Write the file of each sample of the batch that is `wanted`, and keep the states of those in `kept`."""
    assert encoded is not None
    if not place.single:
        for rows in _runs([row for row in batch if row in wanted]):
            own = _rows_of(encoded, batch, rows)
            samples = decode(drawing.model, own.state, own.mask)
            write_each(writer, samples, place.out, drawing.names(rows), drawing.captions(rows), place.parts)
    for rows in _runs(kept):
        keep(place.parts, rows.start, _rows_of(encoded, batch, rows), len(rows))


def _finish(place: Place, drawing: Drawing, writer: Any, kept: int, overview: Path) -> list[str]:
    """Write the overview or the single file, delete what is not needed any more, and return the summary."""
    summary: list[str] = []
    if kept:
        files = first_samples(kept_files(place.parts), kept)
        with beside(place.parts) as folder:
            part = folder / overview.name
            if place.single and part.suffix.lower() in getattr(writer, "streams", ()):
                writer.stream(KeptBatches(drawing, files), part)
                files = first_samples(files, _most_kept(drawing.model))
            else:
                count = kept if place.single else min(kept, MOST_SHOWN)
                encoded = joined_files(first_samples(files, count))
                samples = decode(drawing.model, encoded.state, encoded.mask)
                write_overview(writer, samples, part, drawing.captions(range(count)))
            summary = _summary(drawing, writer, files)
            overview.parent.mkdir(exist_ok=True)
            part.replace(overview)
        if not place.single:
            write_json(place.recipe, {"recipe": drawing.recipe, "complete": drawing.n})
    shutil.rmtree(place.parts, ignore_errors=True)
    return summary


def _summary(drawing: Drawing, writer: Any, files: Mapping[range, Path]) -> list[str]:
    """The lines of the writer about the samples that are kept, which may be the first ones only."""
    measure = getattr(writer, "summary", None)
    if measure is None:
        return []
    encoded = joined_files(files)
    count = sum(map(len, files))
    lines = measure(decode(drawing.model, encoded.state, encoded.mask), drawing.captions(range(count)))
    return [f"of the first {count}: {line}" if count < drawing.n else line for line in lines]
