"""The run folder: where a run keeps what it is, what it measured and what it made.

config.json       configuration, facts of the data, versions of diffcore and of the plugins, the machine
metrics.jsonl     a line of numbers every so often
samples/          pictures of samples, by step
checkpoints/      weights, their average, and what training needs to go on, by step
tuned.json        levels and method of diffcore tune, by number of steps
figures.json      the figures of the last evaluation
report.html       all of it on one page
"""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcore.components import Settings, missing
from diffcore.config import ADDITIONS, RunSettings, compose, validate
from diffcore.errors import UserError
from diffcore.progress import say
from diffcore.registry import Registry, metadata_version


@dataclass(frozen=True)
class Run:
    """Paths of a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        return self.path / "figures.json"

    @property
    def tuned(self) -> Path:
        return self.path / "tuned.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"


@dataclass(frozen=True)
class Description:
    """What config.json says."""

    settings: RunSettings
    facts: Settings


def new_folder(out: Path | None, modality: str, preset: str) -> Path:
    """Make the folder of a new run: `out`, or the next free `runs/<modality>/<preset>-<n>`.

    A folder that exists and holds anything is refused, so nothing is ever overwritten.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} exists already: choose another --out, or continue it with diffcore resume {out}")
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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that, whatever happens, the old content or the new one is there, whole.

    An `OSError` names the file, also where the system's own does not (a full disk).
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`value` as readable JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value of a JSON file, or a `UserError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None


def describe(run: Run, settings: RunSettings, facts: Mapping[str, Any], registry: Registry) -> None:
    """Write config.json."""
    import torch

    used = [registry.modalities[settings.modality], registry.schedules[settings.schedule.name]]  # type: ignore[attr-defined]

    write_json(
        run.config,
        {
            "diffcore": metadata_version("diffcore"),
            "plugins": {provided.distribution: provided.version for provided in used},
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


def open_run(path: Path, registry: Registry) -> tuple[Run, Description]:
    """The run in the folder `path`, or a `UserError` that says what it lacks."""
    run = Run(path)
    if not path.is_dir():
        raise UserError(f"no run folder {path}")
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
        say(f"the {kind} {name!r} that this run was made with is not here: it is left out")
    return {name: options for name, options in table.items() if name in offered}


def provenance(run: Run) -> dict[str, str]:
    """What config.json says of the versions and the machine that made the run."""
    content = read_json(run.config)
    tables = (content.get(name) for name in ("plugins", "machine"))
    merged = {"diffcore": content.get("diffcore", "unknown")}
    for table in tables:
        merged |= table if isinstance(table, dict) else {}
    return {name: str(value) for name, value in merged.items()}


def _listed(content: Mapping[str, Any], name: str) -> str:
    table = content.get(name)
    return ", ".join(f"{key} {value}" for key, value in table.items()) if isinstance(table, dict) else "unknown"


def append_metrics(run: Run, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to metrics.jsonl."""
    with run.metrics.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, up to the first that is damaged: a crash may cut off the last."""
    if not run.metrics.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in run.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or not {"step", "loss"} <= row.keys():
            break
        rows.append(row)
    return rows


def trim_metrics(run: Run, step: int) -> None:
    """Drop what metrics.jsonl says of steps after `step`: they will be run again."""
    kept = [row for row in read_metrics(run) if row["step"] <= step]
    if run.metrics.exists():
        write_atomically(run.metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())
