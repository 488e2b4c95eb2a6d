"""The run folder: where a run keeps what it is, what it measured and what it made.

config.json       configuration, facts of the data, versions of diffcore and of the plugins, the machine
train_log.jsonl     a line of numbers every so often
samples/          pictures of samples, by step
checkpoints/      weights, their average, and what training needs to go on, by step
fitted_grids.json        levels and method of diffcore tune, by number of steps
metrics.json      the metrics of the last evaluation
report.html       all of it on one page
"""

import contextlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins.records import Settings, missing
from diffcore.plugins.registry import Registry, metadata_version
from diffcore.runs.composing import ADDITIONS, additions, compose
from diffcore.runs.settings import RunSettings, validate
from diffcore.system.files import (
    append_lines,
    is_number,
    open_regular,
    parse_json,
    read_json,
    read_lines,
    write_atomically,
    write_json,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def train_log(self) -> Path:
        return self.path / "train_log.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def fitted_grids(self) -> Path:
        return self.path / "fitted_grids.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the run that are not in a folder of their own."""
        return (self.config, self.train_log, self.fitted_grids, self.metrics, self.report)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the run."""
        return (self.samples, self.checkpoints)


@dataclass(frozen=True)
class Description:
    """What config.json says."""

    settings: RunSettings
    facts: Settings


def new_folder(out: Path | None, modality: str, preset: str) -> Path:
    """Make the folder of a new run: `out`, or the next free `runs/<modality>/<preset>-<n>`.

    A folder that exists and holds anything is refused, so nothing is ever overwritten; what a start that was killed
    leaves, before there is a config.json, is nothing.
    """
    if out is not None:
        if os.path.lexists(out) and (not out.is_dir() or any(not _leftover(path) for path in out.iterdir())):
            raise UserError(f"{out} exists already: choose another `out`, or continue it with diffcore resume {out}")
        out.mkdir(parents=True, exist_ok=True)
        return out
    parent = Path("runs") / modality
    number = 1
    while True:
        path = parent / f"{preset}-{number}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1


def _leftover(path: Path) -> bool:
    """Whether a file is of a start that was killed: its lock, or the part of a file."""
    return path.name.startswith(".") and path.name.endswith((".part", ".lock", ".holder"))


def clean(run: RunFolder) -> None:
    """Delete the parts of files that processes which were killed had begun. For who holds the run's lock alone."""
    for folder in (run.path, run.checkpoints):
        for path in folder.glob(".*") if folder.is_dir() else ():
            if not path.name.endswith((".part", ".gone")):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def check_folder(run: RunFolder) -> None:
    """Raise `UserError` where something that a run holds is a link: it could lead out of the run's folder."""
    for path in (*run.folders, *run.files):
        if path.is_symlink():
            raise UserError(f"{path} is a link; what a run holds must lie in its own folder: put it there itself")
    for path in run.folders:
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"{path} is not a folder, as it is in every run")
    for path in run.files:
        if os.path.lexists(path) and not path.is_file():
            raise UserError(f"{path} is not a file, as it is in every run")


def describe(run: RunFolder, settings: RunSettings, facts: Mapping[str, Any], registry: Registry) -> None:
    """Write config.json."""
    import torch

    used = parts_of(settings, registry)
    write_json(
        run.config,
        {
            "diffcore": metadata_version("diffcore"),
            "plugins": {part["distribution"]: part["version"] for part in used},
            "parts": used,
            "machine": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "platform": platform.platform(),
                "threads": torch.get_num_threads(),
                "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            },
            "settings": settings.model_dump(mode="json"),
            "facts": dict(facts),
        },
    )


def parts_of(settings: RunSettings, registry: Registry) -> list[dict[str, str]]:
    """Every part that takes part in a run: its kind, its name, and the distribution and version that it comes from."""
    modality = registry.modalities[settings.modality]
    named = {
        "datasets": [settings.data.name],  # type: ignore[attr-defined]
        "denoisers": [part.name for part in [getattr(settings, "denoiser", None)] if part],
        "classifiers": [part.name for part in [getattr(settings, "classifier", None)] if part],
        "schedules": [settings.schedule.name],  # type: ignore[attr-defined]
        "solvers": [settings.sample.solver],
        **{kind: list(additions(settings, table)) for table, kind in ADDITIONS.items()},
    }
    found = [("modalities", settings.modality, modality)]
    for kind, names in named.items():
        own = {part.name for part in getattr(modality.record, kind, ())}
        offered = getattr(registry, kind)
        # What is neither the kind of data's own nor offered by a hook, such as a logger that is missing, took no part.
        found += [(kind, n, modality if n in own else offered[n]) for n in names if n in own or n in offered]
    return [
        {"kind": kind, "name": name, "distribution": provided.distribution, "version": provided.version}
        for kind, name, provided in found
    ]


def open_run(path: Path, registry: Registry) -> tuple[RunFolder, Description]:
    """The run in the folder `path`, or a `UserError` that says what it lacks."""
    run = RunFolder(path)
    if not path.is_dir():
        raise UserError(f"no run folder {path}")
    check_folder(run)
    if not run.config.is_file():
        raise UserError(f"{path} is not a run folder: it has no config.json")
    content = read_json(run.config)
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise UserError(f"{run.config} does not describe a run")
    settings = content["settings"]
    name = str(settings.get("modality"))
    if name not in registry.modalities:
        raise UserError(
            f"{path} was made with plugins that are not here ({_listed(content, 'plugins')}): unknown modality {name!r}"
        )
    settings = {**settings, **{kind: _there(settings.get(kind), kind, name, registry) for kind in ADDITIONS}}
    composed = compose(registry, name, file=settings, origin=str(run.config))
    facts = validate(registry.modality(name).facts, content.get("facts", {}), f"{run.config}: facts")
    return run, Description(composed, facts)


def _there(table: Any, kind: str, modality: str, registry: Registry) -> Any:
    """The table of a run's metrics or loggers without those that are not here: the run's model needs none of them."""
    if not isinstance(table, dict):
        return table or {}
    offered = {part.name for part in registry.offered(ADDITIONS[kind], modality) if not missing(part)}
    for name in table.keys() - offered:
        logger.warning(f"the {kind} {name!r} that this run was made with is not here: it is left out")
    return {name: options for name, options in table.items() if name in offered}


def provenance(run: RunFolder) -> dict[str, str]:
    """What config.json says of the versions and the machine that made the run."""
    content = read_json(run.config)
    content = content if isinstance(content, dict) else {}
    tables = (content.get(name) for name in ("plugins", "machine"))
    merged = {"diffcore": content.get("diffcore", "unknown")}
    for table in tables:
        merged |= table if isinstance(table, dict) else {}
    return {name: str(value) for name, value in merged.items()}


def _listed(content: Mapping[str, Any], name: str) -> str:
    table = content.get(name)
    return ", ".join(f"{key} {value}" for key, value in table.items()) if isinstance(table, dict) else "unknown"


MOST_ROWS = 100_000
"""Lines of metrics that are held at once, at most twice as many; of more, every second one is, or fewer."""


def append_log(run: RunFolder, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to train_log.jsonl."""
    append_lines(run.train_log, (json.dumps(row) for row in rows))


def read_log(run: RunFolder) -> list[dict[str, float]]:
    """The numbers of train_log.jsonl, line by line, up to the first that is damaged: a crash may cut off the last.

    Lines that tell of a step back have no `loss` and are left out.
    """
    rows: list[dict[str, float]] = []
    last, every = None, 1
    for count, (row, _) in enumerate(_lines(run)):
        if "loss" not in row:
            continue
        last = row
        if count % every == 0:
            rows.append(row)
        if len(rows) == 2 * MOST_ROWS:
            rows, every = rows[::2], 2 * every
    return [*rows, last] if last is not None and rows[-1] is not last else rows


def trim_log(run: RunFolder, step: int, steps_back: int = 0) -> None:
    """Drop what train_log.jsonl says of steps after `step`, or after more steps back: they will be run again.

    The file is cut in place, which needs no room on the disk; where it has other names, as in a copy made of hard
    links, it gets an inode of its own.
    """
    end = 0
    for row, size in _lines(run):
        if row["step"] > step or row.get("steps_back", 0) > steps_back:
            break
        end += size
    try:
        descriptor = open_regular(run.train_log, os.O_RDWR)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "r+b") as file:
        if os.fstat(descriptor).st_nlink > 1:
            write_atomically(run.train_log, file.read(end))
        else:
            os.ftruncate(descriptor, end)


def sync_log(run: RunFolder) -> None:
    """Have train_log.jsonl reach the disk."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = open_regular(run.train_log)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lines(run: RunFolder) -> Iterator[tuple[dict[str, float], int]]:
    """The numbers of each line of train_log.jsonl and its bytes, up to the first line that is damaged."""
    if not os.path.lexists(run.train_log):
        return
    for line in read_lines(run.train_log):
        try:
            row = parse_json(line)
        except (ValueError, RecursionError):
            return
        row = {key: value for key, value in row.items() if is_number(value)} if isinstance(row, dict) else {}
        if "step" not in row or not {"loss", "steps_back"} & row.keys():
            return
        yield row, len(line) + 1
