"""All runs below a folder, as far as their files say without loading anything: for tables of runs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffcore.errors import UserError
from diffcore.runs.folder import RunFolder
from diffcore.system.files import is_number, open_regular, parse_json, read_json

DEEPEST = 5
"""How many folders below the one that is searched a run may lie."""
_TAIL = 2**14
"""Bytes at the end of train_log.jsonl that are read."""
_ENDS = ("_real", "_codec", "_teacher", "_ceiling")
"""The ends of the names of metrics that others are compared with."""


@dataclass(frozen=True)
class ListedRun:
    """A run in a table.

    * `path`: its folder.
    * `modality`, `task`, `data`, `preset`: what it was trained on, and how.
    * `steps`, `planned`: the steps that are done, and those of the settings; None where they are not known.
    * `minutes`: the minutes of training.
    * `state`: "training" while a process trains it, "ended" after its report, or else "stopped".
    * `metrics`: the metrics of the last evaluation by name, in their order, without those that they are compared with.
    * `size`: the bytes of all its files.
    * `problem`: why the run cannot be read; empty if it can.
    """

    path: Path
    modality: str = ""
    task: str = ""
    data: str = ""
    preset: str = ""
    steps: int | None = None
    planned: int | None = None
    minutes: float | None = None
    state: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    size: int = 0
    problem: str = ""

    def values(self) -> dict[str, Any]:
        """The fields as values of JSON."""
        return {**asdict(self), "path": str(self.path)}


def list_runs(folder: Path) -> list[ListedRun]:
    """The runs in `folder` and below it, ordered by path. A run that is damaged is listed with its problem.

    Raises `UserError` if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: name the folder that the runs are in")
    return [_read(path) for path in _folders(folder)]


def _folders(folder: Path) -> Iterator[Path]:
    """The folders of runs, which are not searched for further ones."""
    start = len(folder.parts)
    for place, folders, files in os.walk(folder):
        folders.sort()
        if "config.json" in files:
            folders.clear()
            yield Path(place)
        elif len(Path(place).parts) - start >= DEEPEST:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]


def _read(path: Path) -> ListedRun:
    run = RunFolder(path)
    size = sum(_bytes(Path(place) / name) for place, _, names in os.walk(path) for name in names)
    try:
        content = read_json(run.config)
        settings = content.get("settings") if isinstance(content, dict) else None
        if not isinstance(settings, dict):
            return ListedRun(path, size=size, problem="config.json does not describe a run")
        last = _last_row(run)
        metrics = _metrics(run)
    except (UserError, OSError) as error:
        return ListedRun(path, size=size, problem=str(error).replace(f"{path}{os.sep}", ""))
    train = settings.get("train")
    steps, seconds = (_number(last.get(name)) for name in ("step", "seconds"))
    return ListedRun(
        path,
        str(settings.get("modality", "")),
        _name(settings, "task"),
        _name(settings, "data"),
        str(settings.get("preset", "")),
        None if steps is None else int(steps),
        _whole(train.get("steps") if isinstance(train, dict) else None),
        None if seconds is None else seconds / 60,
        _state(run),
        metrics,
        size,
    )


def _name(settings: Mapping[str, Any], kind: str) -> str:
    table = settings.get(kind)
    return str(table.get("name", "")) if isinstance(table, dict) else ""


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _last_row(run: RunFolder) -> dict[str, Any]:
    """The last complete line of train_log.jsonl; empty if there is none."""
    if not run.train_log.is_file():
        return {}
    with os.fdopen(open_regular(run.train_log), "rb") as file:
        file.seek(max(0, run.train_log.stat().st_size - _TAIL))
        lines = file.read(_TAIL).splitlines()
    for line in reversed(lines):
        try:
            row = parse_json(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and "step" in row:
            return row
    return {}


def _metrics(run: RunFolder) -> dict[str, float]:
    rows = read_json(run.metrics) if run.metrics.is_file() else []
    found: dict[str, float] = {}
    for row in rows if isinstance(rows, list) else ():
        name, value = (row.get("name"), row.get("value")) if isinstance(row, dict) else (None, None)
        if isinstance(name, str) and is_number(value) and not name.endswith(_ENDS):
            found[name] = float(value)  # type: ignore[arg-type]
    return found


def _state(run: RunFolder) -> str:
    lock = run.path / ".run.lock"
    if lock.is_file() and not lock.is_symlink() and os.access(lock, os.W_OK):
        try:
            with FileLock(lock, timeout=0, fallback_to_soft=False):
                pass
        except Timeout:
            return "training"
        except OSError:  # a file system without locks
            pass
    return "ended" if run.end.is_file() else "stopped"


def sorted_runs(runs: Sequence[ListedRun], by: str) -> list[ListedRun]:
    """The runs ordered by a field or by a metric, the largest number first; those without a value come last.

    Raises `UserError` if no run has a value of that name.
    """
    values = {run.path: {**run.values(), **run.metrics} for run in runs}
    known = dict.fromkeys(name for each in values.values() for name in each if name not in ("metrics", "problem"))
    if by not in known:
        raise UserError(f"`sort` {by}: the runs have no value of this name; there are: {', '.join(known)}")

    def key(run: ListedRun) -> tuple[bool, Any]:
        value = values[run.path].get(by)
        number = _number(value)
        return (value is None, value if number is None else -number)

    return sorted(runs, key=key)
