"""Rows that are encoded once, in shards, and then mapped from a file: for data that are larger than the memory.

A set of records, such as pictures, is encoded in parts. The rows of a part, tensors of one form, are written to a file
one after another as they are encoded, so only the rows in work are in memory. When a part is complete, an entry with
the digest of its rows and with what is told of its records is written beside it. So an interruption loses the parts in
work only: the others are kept, and what is half-written or damaged is encoded again. Several threads encode parts at
the same time, and the result does not depend on their number.

`Encoded.rows` then joins the rows to one file, in an order that may depend on what was told of them, and maps it. The
files of the parts are deleted after that. While they are joined, the rows exist twice on the disk.
"""

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from diffcore.errors import UserError
from diffcore.system.cache import cache_folder, read_entry, tell_damage, write_entry
from diffcore.system.files import sync_folder
from diffcore.system.mapped import Origin, mapped
from diffcore.system.progress import Report, bar

logger = logging.getLogger(__name__)

Row = tuple[Tensor | None, Any]
"""The encoded row of a record, None if it has none, and what is told of the record: a value of JSON."""

SHARD_BYTES = 64 * 2**20
"""Bytes of the rows of a part, at most, where parts can be chosen freely."""

SHARD_ROWS = 1000
"""Rows of a part, at most, where parts can be chosen freely."""

_AT_ONCE = 2**20
"""Bytes of rows that are joined or changed at once."""

_SAMPLED = 64
"""Rows of a joined file whose digest is kept, at equal distances: reading all of them again could take hours."""

_VERSION = "shards 1"

_JOINED, _ENTRY = "rows.bin", "rows.entry"
"""The file of the joined rows, and the entry that says what they are."""


@dataclass(frozen=True)
class Form:
    """The shape and the type of a row."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.uint8

    @property
    def bytes(self) -> int:
        """The bytes of a row."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self, count: int, unit: int = 1) -> list[range]:
        """The numbers from 0 to `count` - 1 in parts that are not larger than a shard shall be.

        Each part but the last one has a multiple of `unit` rows, even if that is more.
        """
        size = unit * max(1, min(SHARD_ROWS, SHARD_BYTES // max(1, self.bytes)) // unit)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


def workers() -> int:
    """How many parts are encoded at the same time: as many as this process has processors, and at least two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, cores)


def default_folder() -> Path:
    """Where encoded rows are kept if nothing else is asked for: in the cache."""
    return cache_folder() / "shards"


@dataclass
class Encoded:
    """A set of records that are encoded: what is told of them, and their rows on the disk."""

    folder: Path
    form: Form
    told: list[list[Any]]
    """What is told of the records, by part."""
    has_row: list[list[bool]]
    """Which of them have a row."""
    digests: list[str]
    """The SHA-256 of the rows of each part."""
    restore: Callable[[], None]
    """Encodes the parts again whose rows are not there."""

    @property
    def records(self) -> list[Any]:
        """What is told of all records, in their order."""
        return [record for part in self.told for record in part]

    @property
    def used(self) -> list[bool]:
        """Which of the records have a row, in their order."""
        return [has for part in self.has_row for has in part]

    def rows(
        self, order: Tensor, form: Form | None = None, change: Callable[[Tensor], Tensor] | None = None, how: str = ""
    ) -> Tensor:
        """The rows with the numbers `order`, int64 `[n]`, mapped from a file: `[n, ...]`.

        Rows are numbered in the order of their records, without the records that have none; each occurs at most once
        in `order`. `change` makes other rows, of the form `form`, of some rows; `how` names what it does.

        Raises `UserError` if the disk is too full, or if records are not what they were when they were encoded.
        """
        form = form or self.form
        identity = _digest_of([_VERSION, self.digests, [*form.shape], str(form.dtype), how, _digest_rows(order)])
        with _locked(self.folder):
            found = _joined(self.folder, form, len(order), identity)
            if found is None:
                self._join_intact(order, form, change)
                found = mapped(
                    self.folder / _JOINED, (len(order), *form.shape), form.dtype, Origin(self.folder, identity)
                )
                _write(self.folder / _ENTRY, {"identity": identity, "sample": _sampled(found)})
            for path in self.folder.glob("[0-9]*.bin"):
                path.unlink(missing_ok=True)
        return found

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` computes of the joined rows, a value of JSON, which is kept beside them under that name."""
        joined, path = read_entry(self.folder / _ENTRY), self.folder / f"{name}.entry"
        about = hashlib.sha256(joined or b"").hexdigest()
        content = read_entry(path) if path.exists() else None
        entry = {} if content is None else json.loads(content)
        if joined is None or entry.get("of") != about:
            entry = {"of": about, "value": make()}
            _write(path, entry)
        return entry["value"]

    def _join_intact(self, order: Tensor, form: Form, change: Callable[[Tensor], Tensor] | None) -> None:
        """Join the rows. Those of parts that are not there, or damaged, are encoded again first."""
        (self.folder / _ENTRY).unlink(missing_ok=True)
        for _ in range(2):
            self.restore()
            if (damaged := self._join(order, form, change)) is None:
                return
            tell_damage(_rows_file(self.folder, damaged), "its digest is wrong")
            _rows_file(self.folder, damaged).unlink(missing_ok=True)
        raise UserError(
            f"the rows of shard {damaged} in {self.folder} are not what they were when they were first encoded: delete "
            "this folder to encode all of them again, and check the disk if this happens twice"
        )

    def _join(self, order: Tensor, form: Form, change: Callable[[Tensor], Tensor] | None) -> int | None:
        """Write the rows with these numbers to one file. Returns the number of the first part that is damaged."""
        place = torch.full((sum(self.used),), -1, dtype=torch.int64)
        place[order] = torch.arange(len(order))
        require_space(self.folder, len(order) * form.bytes)
        part = self.folder / "joined.part"
        first = 0
        with part.open("wb") as file, bar("joining shards") as report:
            file.truncate(len(order) * form.bytes)
            for number, has_row in enumerate(self.has_row):
                digest = hashlib.sha256()
                for rows in self._read(number, sum(has_row)):
                    digest.update(_raw(rows))
                    places = place[first : first + len(rows)]
                    _write_rows(file, rows if change is None else change(rows), places, form)
                    first += len(rows)
                if digest.hexdigest() != self.digests[number]:
                    return number
                report((number + 1) / len(self.has_row), f"{number + 1} of {len(self.has_row)}")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / _JOINED)
        sync_folder(self.folder)
        return None

    def _read(self, number: int, count: int) -> Iterator[Tensor]:
        """The rows of a part, some at a time."""
        step = max(1, _AT_ONCE // max(1, self.form.bytes))
        with _rows_file(self.folder, number).open("rb") as file:
            for start in range(0, count, step):
                rows = min(step, count - start)
                content = bytearray(file.read(rows * self.form.bytes))
                if len(content) == rows * self.form.bytes and content:
                    yield torch.frombuffer(content, dtype=self.form.dtype).view(rows, *self.form.shape)


def encode(
    folder: Path,
    identities: Sequence[str],
    form: Form,
    read: Callable[[int], Iterable[Row]],
    title: str,
    total: int | None = None,
    threads: int | None = None,
) -> Encoded:
    """Encode the parts that are not encoded yet, and return what is told of all.

    * `folder`: where sets are kept; the set gets a folder of its own in it, named after the identities.
    * `identities`: a text for each part, which changes whenever its content or its encoding does.
    * `read`: yields the rows of the records of the part with a number. It is called in several threads, unless
      `threads` is 1.
    * `title`: what is encoded, for the bar of progress; `total` is the number of records, where it is known.
    * `threads`: how many threads encode, `workers()` if None. With 1, the thread that calls encodes itself.

    Another process that encodes the same set is waited for. Raises `UserError` if the disk is full or cannot be
    written, and whatever `read` raises.
    """
    own = folder / _digest_of([_VERSION, [*form.shape], str(form.dtype), *identities])[:32]
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the shards of {title} cannot be written to {folder} ({error.strerror}): name another folder for them"
        ) from None
    numbers = range(len(identities))

    def restore(joined: bool = False) -> None:
        missing = [number for number in numbers if _entry(own, number, form, joined) is None]
        if missing and len(missing) < len(numbers):
            logger.info(f"{len(numbers) - len(missing)} of {len(numbers)} shards of {title} are there already")
        if missing:
            _encode(own, missing, form, read, title, total if len(missing) == len(numbers) else None, threads)

    with _locked(own):
        joined = (own / _ENTRY).exists() and (own / _JOINED).exists()
        restore(joined)
        entries = [_entry(own, number, form, joined) for number in numbers]
    if None in entries:
        raise UserError(f"{_rows_file(own, entries.index(None))} cannot be read back: check the disk")
    found: list[Any] = entries
    return Encoded(
        own,
        form,
        [[record for _, record in entry["records"]] for entry in found],
        [[bool(has) for has, _ in entry["records"]] for entry in found],
        [entry["digest"] for entry in found],
        restore,
    )


class _Counted:
    """What the threads that encode share: how much is done, and whether they shall stop."""

    def __init__(self, report: Report, parts: int, total: int | None) -> None:
        self.stop = threading.Event()
        self._report, self._parts, self._total = report, parts, total
        self._lock, self._started = threading.Lock(), time.monotonic()
        self._records = self._done = 0

    def more(self, records: int, parts: int = 0) -> None:
        """So many records and parts more are done."""
        with self._lock:
            self._records, self._done = self._records + records, self._done + parts
            rate = self._records / max(time.monotonic() - self._started, 1e-9)
            done = self._done / self._parts
            if self._total:
                done = self._records / self._total
            self._report(done, f"{self._records:,} records, {self._done} of {self._parts} shards, {rate:,.0f}/s")


def _encode(
    folder: Path,
    missing: Sequence[int],
    form: Form,
    read: Callable[[int], Iterable[Row]],
    title: str,
    total: int | None,
    threads: int | None,
) -> None:
    """Encode the parts `missing`, in several threads unless `threads` is 1."""
    if total is not None:
        require_space(folder, total * form.bytes)
    with bar(f"encoding {title}") as report:
        counted = _Counted(report, len(missing), total)
        if threads == 1:
            for number in missing:
                _encode_part(folder, number, form, read, counted)
        else:
            _encode_in_threads(folder, missing, form, read, counted, threads or workers())


def _encode_in_threads(
    folder: Path,
    missing: Sequence[int],
    form: Form,
    read: Callable[[int], Iterable[Row]],
    counted: _Counted,
    count: int,
) -> None:
    """Encode the parts `missing` in `count` threads."""
    with ThreadPoolExecutor(count, "encoding") as threads:
        waiting: set[Future] = set()
        try:
            for number in missing:
                waiting.add(threads.submit(_encode_part, folder, number, form, read, counted))
                if len(waiting) >= 2 * count:
                    waiting = _finished(waiting)
            while waiting:
                waiting = _finished(waiting)
        finally:
            counted.stop.set()
            for future in waiting:
                future.cancel()


def _finished(waiting: set[Future]) -> set[Future]:
    """Those that are left when one or more have ended. Raises what these have raised."""
    done, left = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return left


def _encode_part(
    folder: Path, number: int, form: Form, read: Callable[[int], Iterable[Row]], counted: _Counted
) -> None:
    """Write the rows of a part and then its entry, unless the work is stopped."""
    digest, records, told = hashlib.sha256(), [], 0
    name = _rows_file(folder, number)
    part = name.with_suffix(".part")
    try:
        with part.open("wb") as file:
            for row, record in read(number):
                if counted.stop.is_set():
                    return
                if row is not None:
                    content = _raw(row)
                    if len(content) != form.bytes or row.dtype != form.dtype:
                        raise ValueError(
                            f"a row {[*row.shape]} of {row.dtype} instead of {[*form.shape]}, {form.dtype}"
                        )
                    digest.update(content)
                    file.write(content)
                records.append([row is not None, record])
                if len(records) % 64 == 0:
                    counted.more(64)
                    told += 64
            file.flush()
            os.fsync(file.fileno())
        part.replace(name)
        _write(_entry_file(folder, number), {"digest": digest.hexdigest(), "records": records})
    except OSError as error:
        if str(error.filename or part) != str(part):
            raise
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): make room there, or name another folder"
        ) from None
    counted.more(len(records) - told, 1)


def _entry(folder: Path, number: int, form: Form, joined: bool) -> dict[str, Any] | None:
    """The entry of a part, None if there is none or, unless they are `joined`, if its rows are not there."""
    path = _entry_file(folder, number)
    if (content := read_entry(path)) is None:
        return None
    entry: dict[str, Any] = json.loads(content)
    rows = _rows_file(folder, number)
    size = sum(bool(has) for has, _ in entry["records"]) * form.bytes
    if not joined and (not rows.is_file() or rows.stat().st_size != size):
        return None
    return entry


def _joined(folder: Path, form: Form, count: int, identity: str) -> Tensor | None:
    """The joined rows, if the file is there, is of this identity, and seems intact."""
    content = read_entry(folder / _ENTRY)
    entry = {} if content is None else json.loads(content)
    if entry.get("identity") != identity:
        return None
    name = folder / _JOINED
    try:
        found = mapped(name, (count, *form.shape), form.dtype, Origin(folder, identity))
    except (ValueError, FileNotFoundError) as error:
        tell_damage(name, str(error))
        return None
    if _sampled(found) != entry["sample"]:
        tell_damage(name, "its content has changed")
        return None
    return found


def _write_rows(file: IO[bytes], rows: Tensor, places: Tensor, form: Form) -> None:
    """Write rows to their places in a file; those with the place -1 are left out."""
    wanted = places >= 0
    if not bool(wanted.all()):
        rows, places = rows[wanted], places[wanted]
    content, start = _raw(rows), 0
    ends = [*((places.diff() != 1).nonzero()[:, 0] + 1).tolist(), len(places)]
    for end in ends if len(places) else ():
        file.seek(int(places[start]) * form.bytes)
        file.write(content[start * form.bytes : end * form.bytes])
        start = end


def _raw(rows: Tensor) -> memoryview:
    """The bytes of rows."""
    return rows.contiguous().flatten().view(torch.uint8).numpy().data


def _sampled(rows: Tensor) -> str:
    """The digest of some of the rows."""
    digest = hashlib.sha256()
    for number in torch.linspace(0, max(len(rows) - 1, 0), min(len(rows), _SAMPLED)).long().tolist():
        digest.update(_raw(rows[number]))
    return digest.hexdigest()


def _digest_rows(order: Tensor) -> str:
    return hashlib.sha256(order.numpy().tobytes()).hexdigest()


def _digest_of(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()


def _write(path: Path, content: Any) -> None:
    if not write_entry(path, json.dumps(content).encode()):
        raise UserError(f"{path.parent} cannot be written: make room there, or name another folder")


def _rows_file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.bin"


def _entry_file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.entry"


def require_space(folder: Path, needed: int) -> None:
    """Raise `UserError` if the disk of a folder has not so many bytes left."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the shards take {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left: make room there, or "
            "name another folder"
        )


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EROFS)
"""What folders answer in which no file can be locked: some network drives, and those that may only be read."""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a set; another process that encodes it is waited for. Without locks, nothing is held."""
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info(f"waiting for another process that uses the shards in {folder}")
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()
