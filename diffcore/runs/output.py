"""Writes samples to files while they are drawn, so that an interruption loses at most one batch.

A folder of samples contains one file per sample, an overview of the first ones in a folder of its own, and
`recipe.json`, which says from what the samples were drawn. A call with the same recipe draws the files that are
missing; another recipe is refused. While samples are drawn, the hidden folder `.drawing` holds the states that the
overview needs and the files that are not complete. If all samples go to one file, the states of all samples are kept
in such a folder beside it, until the file is written.

Files are written under another name and renamed, so a file with the name of a sample is complete. An empty file, which
a power failure may leave, counts as missing.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from filelock import Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save

from diffcore.errors import UserError
from diffcore.plugins.building import part_of
from diffcore.plugins.data import Encoded
from diffcore.plugins.output import Captions
from diffcore.runs.coding import decode
from diffcore.runs.drawing import Drawing
from diffcore.runs.generation import batch_size_of
from diffcore.runs.guides import recipe_words
from diffcore.runs.lock import acquire
from diffcore.runs.model import Model
from diffcore.runs.samples import (
    MOST_SHOWN,
    beside,
    is_single_file,
    overview_of,
    require_few,
    unused,
    write_each,
    write_overview,
)
from diffcore.sampling.loop import in_batches
from diffcore.states.state import concatenate, fields, named
from diffcore.system.distributed import by_leader, from_leader, leads, world
from diffcore.system.files import read_json, read_regular, write_atomically, write_json

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


@dataclass(frozen=True)
class Place:
    """Where samples are written: the folder or the single file `out`, and the files beside it while they are drawn."""

    out: Path
    single: bool

    @property
    def parts(self) -> Path:
        """The folder of what is only needed until all samples are drawn."""
        return self.out.parent / f".{self.out.name}.drawing" if self.single else self.out / ".drawing"

    @property
    def recipe(self) -> Path:
        """The file with the recipe of the samples."""
        return (self.parts if self.single else self.out) / "recipe.json"


def default_place(folder: Path, drawing: Drawing) -> Path:
    """The folder for these samples in `folder`: one that has samples of the same recipe, or the first unused one.

    An unused one is created, so that a call at the same time with another recipe gets another one.
    """
    name = f"seed-{drawing.seed}"
    for number in count(1):
        path = folder / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
        place = Place(path, single=False)
        if place.recipe.is_file() and not _differences(place, drawing.recipe):
            return path
    raise AssertionError


def write_samples(
    drawing: Drawing, out: Path, replace: bool = False, after_batch: Callable[[int, int], None] = lambda done, of: None
) -> Written | None:
    """Draw samples and write them to `out` batch by batch: a folder, or one file that holds all of them.

    Samples that an earlier call with the same recipe wrote are not drawn again. With several processes, each draws a
    part of every batch; the leader writes the files and gets the result. `after_batch` receives how many samples are
    drawn, and how many there are to draw.

    Raises `UserError` if `out` contains anything else, unless these are samples and `replace` is true; if another
    command is writing there; and if there are too many samples for a picture of all.
    """
    single = is_single_file(out, drawing.model)
    writer = part_of(drawing.model.modality, "writer", drawing.model.codec)
    if single:
        require_few(writer, out, drawing.n)
    place = Place(out, single)
    kept = drawing.n if single else min(drawing.n, _most_kept(drawing.model))
    with contextlib.ExitStack() as stack:
        by_leader(lambda: stack.enter_context(_opened(place, drawing, replace)))
        complete = from_leader(lambda: _is_complete(place, drawing, writer))
        kept = 0 if complete else kept
        rows, earlier = from_leader(lambda: _missing(place, drawing, kept))
        done = 0
        try:
            for indices in _runs(rows, batch_size_of(drawing.model, drawing.config) * world()):
                encoded = drawing.draw(indices)
                if encoded is not None:
                    _write_batch(place, drawing, writer, indices, encoded, kept)
                done += len(indices)
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


@contextlib.contextmanager
def _opened(place: Place, drawing: Drawing, replace: bool) -> Iterator[None]:
    """Claim the place for samples of this recipe; what was made is removed again if nothing is drawn."""
    folder = place.parts.parent
    _check_file(place, replace)
    new = [path for path in (place.parts, *place.parts.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    _check_content(place, drawing.recipe, replace)
    place.parts.mkdir(exist_ok=True)
    no_locks = f"the file system of {place.out} has no locks: make sure that no other command draws samples to it"
    try:
        lock = acquire(place.parts / "lock", no_locks)
    except Timeout:
        raise UserError(f"another command is drawing samples to {place.out}: choose another `out`") from None
    try:
        _check_again(place, drawing.recipe, replace)
        if replace and place.recipe.is_file() and _differences(place, drawing.recipe):
            _clear(place)
        for path in place.parts.iterdir():
            if path.is_dir():  # incomplete files of a process that was killed
                shutil.rmtree(path, ignore_errors=True)
        if not place.recipe.is_file():
            write_json(place.recipe, {"recipe": drawing.recipe, "complete": 0})
        yield
    except BaseException:
        if new and not _has_samples(place):
            place.recipe.unlink(missing_ok=True)
            shutil.rmtree(place.parts, ignore_errors=True)
            for path in new:
                with contextlib.suppress(OSError):
                    path.rmdir()
        raise
    finally:
        lock.release()


def _check_file(place: Place, replace: bool) -> None:
    """Raise `UserError` if the single file of the place exists and may not be replaced."""
    if place.single and os.path.lexists(place.out) and not replace:
        raise UserError(f"{place.out} exists already: choose another `out`, such as {unused(place.out)}, or `replace`")


def _check_again(place: Place, recipe: Mapping[str, Any], replace: bool) -> None:
    """Check the place when it is locked, as another command may have written there since it was checked."""
    try:
        _check_file(place, replace)
        _check_content(place, recipe, replace)
    except UserError:
        if not _kept(place):
            shutil.rmtree(place.parts, ignore_errors=True)
        raise


def _check_content(place: Place, recipe: Mapping[str, Any], replace: bool) -> None:
    """Raise `UserError` if the place contains anything but samples of this recipe, or of any with `replace`."""
    another = f"choose another `out`, such as {unused(place.out)}"
    if place.recipe.is_file():
        if (differences := _differences(place, recipe)) and not replace:
            what = "an interrupted call has drawn other samples for it" if place.single else "it contains other samples"
            raise UserError(f"{place.out}: {what} ({differences}); {another}, or `replace` them")
    elif not place.single and any(path.name != place.parts.name for path in place.out.iterdir()):
        raise UserError(f"{place.out} exists already and is not a folder of samples of a known recipe: {another}")


def _differences(place: Place, recipe: Mapping[str, Any]) -> str:
    """How the recipe of the samples that are there differs from this one, in words; empty if it does not."""
    stored = _record(place)["recipe"]
    names = [name for name in {**stored, **recipe} if stored.get(name) != recipe.get(name)]
    if names == ["checkpoint"]:  # the same weights under another name
        return ""

    def shown(values: Mapping[str, Any], name: str) -> str:
        guides = name == "guidance" and isinstance(values.get(name), list)
        return recipe_words(values[name]) if guides else _short(values.get(name))

    return "; ".join(f"{name} is {shown(recipe, name)}, there {shown(stored, name)}" for name in names[:3])


def _short(value: Any) -> str:
    if value is None or value == {}:
        return "not given"
    text = value if isinstance(value, str) else re.sub(r"[{}'\"]", "", str(value))
    return text if len(text) <= 30 else f"{text[:12]}…"


def _record(place: Place) -> dict[str, Any]:
    record = read_json(place.recipe)
    if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
        raise UserError(f"{place.recipe} does not describe samples; delete the folder, or choose another `out`")
    return record


_FILE = re.compile(r"\d{4,}[-.]")
"""How the names of files of samples begin."""


def _clear(place: Place) -> None:
    """Delete samples of another recipe, and nothing else."""
    for path in () if place.single else [*place.out.iterdir(), *place.out.glob("overview/grid.*")]:
        if (_FILE.match(path.name) or path.name.startswith("grid.")) and path.is_file():
            path.unlink()
    for path in _kept(place).values():
        path.unlink()
    place.recipe.unlink()


def _has_samples(place: Place) -> bool:
    if _kept(place):
        return True
    return not place.single and any(_FILE.match(path.name) for path in place.out.iterdir())


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
    complete = _record(place).get("complete")
    return isinstance(complete, int) and complete >= drawing.n


def _missing(place: Place, drawing: Drawing, kept: int) -> tuple[list[int], int]:
    """The samples that must be drawn, and the number of those that an earlier call has written.

    Besides samples whose files are missing, these are samples of the overview whose states are not kept any more.
    """
    states = _kept_rows(place)
    if place.single:
        missing = [row for row in range(drawing.n) if row not in states]
        return missing, drawing.n - len(missing)
    there = [_is_there(place.out, item) for item in _listed(place.out, drawing)]
    return [row for row, found in enumerate(there) if not found or (row < kept and row not in states)], sum(there)


def _runs(rows: Sequence[int], size: int) -> Iterator[range]:
    """The rows in batches of at most `size`, each without gaps."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1 or end - start == size:
            yield range(rows[start], rows[end - 1] + 1)
            start = end


def _write_batch(place: Place, drawing: Drawing, writer: Any, rows: range, encoded: Encoded, kept: int) -> None:
    """Keep the states that are needed at the end, and write the file of each sample that has none."""
    model, count = drawing.model, max(0, min(rows.stop, kept) - rows.start)
    if not place.single:
        samples = decode(model, encoded.state, encoded.mask)
        write_each(writer, samples, place.out, drawing.names(rows), drawing.captions(rows), place.parts)
    if count:
        tensors = {f"state {name}": field[:count].contiguous() for name, field in fields(encoded.state).items()}
        if encoded.mask is not None:
            tensors["mask"] = encoded.mask[:count].contiguous()
        write_atomically(place.parts / f"{rows.start:08d}-{count}.safetensors", save(tensors))


def _kept(place: Place) -> dict[range, Path]:
    """The files of states that are kept, in the order of the samples."""
    found = {}
    for path in place.parts.glob("*.safetensors") if place.parts.is_dir() else ():
        if numbers := re.fullmatch(r"(\d+)-(\d+)\.safetensors", path.name):
            found[range(int(numbers[1]), int(numbers[1]) + int(numbers[2]))] = path
    return dict(sorted(found.items(), key=lambda item: item[0].start))


def _kept_rows(place: Place) -> set[int]:
    return {row for rows in _kept(place) for row in rows}


def _read_kept(drawing: Drawing, path: Path, count: int) -> Encoded:
    """The first `count` of the states in a file. Raises `UserError`, and deletes the file, if it is damaged."""
    try:
        tensors = load(read_regular(path, path.stat().st_size))
        kept = {name.removeprefix("state "): t[:count] for name, t in tensors.items() if name.startswith("state ")}
        state = kept[""] if "" in kept else named(kept)
    except (SafetensorError, KeyError, StopIteration, UserError):
        path.unlink(missing_ok=True)
        raise UserError(f"{path} was damaged: repeat the command, which draws its samples again") from None
    mask = tensors.get("mask")
    return Encoded(state, {}, None if mask is None else mask[:count])


@dataclass(frozen=True, eq=False)
class _KeptBatches:
    """Kept samples, decoded batch by batch, with their captions: what `Writer.stream` receives."""

    drawing: Drawing
    files: Mapping[range, Path]

    def __len__(self) -> int:
        return sum(map(len, self.files))

    def __iter__(self) -> Iterator[tuple[Any, Captions]]:
        for rows, path in self.files.items():
            encoded = _read_kept(self.drawing, path, len(rows))
            yield decode(self.drawing.model, encoded.state, encoded.mask), self.drawing.captions(rows)


def _finish(place: Place, drawing: Drawing, writer: Any, kept: int, overview: Path) -> list[str]:
    """Write the overview or the single file, delete what is not needed any more, and return the summary."""
    summary: list[str] = []
    if kept:
        files = _first(_kept(place), kept)
        with beside(place.parts) as folder:
            part = folder / overview.name
            if place.single and part.suffix.lower() in getattr(writer, "streams", ()):
                writer.stream(_KeptBatches(drawing, files), part)
                files = _first(files, _most_kept(drawing.model))
            else:
                count = kept if place.single else min(kept, MOST_SHOWN)
                encoded = _joined(drawing, _first(files, count))
                samples = decode(drawing.model, encoded.state, encoded.mask)
                write_overview(writer, samples, part, drawing.captions(range(count)))
            summary = _summary(drawing, writer, files)
            overview.parent.mkdir(exist_ok=True)
            part.replace(overview)
        if not place.single:
            write_json(place.recipe, {"recipe": drawing.recipe, "complete": drawing.n})
    shutil.rmtree(place.parts, ignore_errors=True)
    return summary


def _first(files: Mapping[range, Path], most: int) -> dict[range, Path]:
    """The files that hold the first `most` samples; the last one is read in part."""
    return {range(rows.start, min(rows.stop, most)): path for rows, path in files.items() if rows.start < most}


def _joined(drawing: Drawing, files: Mapping[range, Path]) -> Encoded:
    each = [_read_kept(drawing, path, len(rows)) for rows, path in files.items()]
    masks = [encoded.mask for encoded in each if encoded.mask is not None]
    state = concatenate([encoded.state for encoded in each])
    return Encoded(state, {}, concatenate(masks) if masks else None)  # type: ignore[arg-type]


def _summary(drawing: Drawing, writer: Any, files: Mapping[range, Path]) -> list[str]:
    """The lines of the writer about the samples that are kept, which may be the first ones only."""
    measure = getattr(writer, "summary", None)
    if measure is None:
        return []
    encoded = _joined(drawing, files)
    count = sum(map(len, files))
    lines = measure(decode(drawing.model, encoded.state, encoded.mask), drawing.captions(range(count)))
    return [f"of the first {count}: {line}" if count < drawing.n else line for line in lines]
