"""The run folder, which contains all files of a run.

config.json        settings, facts of the data, versions of diffcore and of the plugins, the machine
data.json          the files that were found, the examples of each class, what was changed and what was passed over
train_log.jsonl    loss and other numbers of training, one line every `train.log_every` steps
samples/           pictures of samples, by step
checkpoints/       weights, their moving average, and the state of training, by step
codec.safetensors  weights of the codec, if it has any
fitted_grids.json  time grids and solver options found by diffcore tune, by number of steps
metrics.json       the metrics of the last evaluation
evaluations.json   the metrics of all evaluations, each with its recipe
end.json           what has been made after training: the last picture, the metrics and the report
report.html        a report of the run on one page
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

from diffcore.errors import UserError, quoted
from diffcore.plugins.joint.record import SIGN
from diffcore.plugins.records import Settings, missing
from diffcore.plugins.registry import RECORDS, Registry, metadata_version
from diffcore.runs.composing import ADDITIONS, KINDS, additions, chosen_parts, compose
from diffcore.runs.consent import is_own, signature_of
from diffcore.runs.settings import FirstStage, RunSettings, validate
from diffcore.system.files import (
    append_lines,
    delete_abandoned,
    is_number,
    open_regular,
    parse_json,
    read_json,
    read_lines,
    read_summed_json,
    write_atomically,
    write_summed_json,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """The paths of the files and folders of a run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

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
    def codec(self) -> Path:
        return self.path / "codec.safetensors"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.json"

    @property
    def end(self) -> Path:
        return self.path / "end.json"

    @property
    def fitted_grids(self) -> Path:
        return self.path / "fitted_grids.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the run that are directly in its folder."""
        return (
            self.config,
            self.data,
            self.train_log,
            self.codec,
            self.fitted_grids,
            self.metrics,
            self.evaluations,
            self.end,
            self.report,
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the run."""
        return (self.samples, self.checkpoints)


@dataclass(frozen=True)
class Description:
    """The settings of a run and the facts of its data, from config.json.

    `own` says whether this user has written them, as `diffcore.runs.consent` describes. `codec` is the digest of the
    weights of the codec (`diffcore.runs.codec_weights`), or None if it has none. `first_stage` is that of a run which
    diffuses in latents.
    """

    settings: RunSettings
    facts: Settings
    own: bool
    codec: str | None = None
    first_stage: FirstStage | None = None


def new_folder(out: Path | None, modality: str, preset: str) -> Path:
    """Create the folder of a new run: `out`, or the first unused `runs/<modality>/<preset>-<n>`.

    Raises `UserError` if `out` exists and is not empty, so that nothing is overwritten. Files that a killed process
    leaves before it writes config.json do not count.
    """
    if out is not None:
        if os.path.lexists(out) and (not out.is_dir() or any(not _leftover(path) for path in out.iterdir())):
            raise UserError(
                f"{out} exists already: choose another `out`, or continue the run with diffcore resume {quoted(out)}"
            )
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
    """Whether a killed process left the file before config.json: weights of a codec, a lock, or an incomplete file."""
    hidden = path.name.startswith(".") and path.name.endswith((".part", ".lock", ".holder"))
    return hidden or path == RunFolder(path.parent).codec


def clean(run: RunFolder) -> None:
    """Delete the incomplete files of killed processes. The caller must hold the lock of the run."""
    for folder in (run.path, run.checkpoints, run.samples):
        for path in folder.glob(".*") if folder.is_dir() else ():
            if not path.name.endswith((".part", ".gone")):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                delete_abandoned(path)


def check_folder(run: RunFolder) -> None:
    """Raise `UserError` if a path of the run is a link, which could lead out of its folder, or of the wrong type."""
    for path in (*run.folders, *run.files):
        if path.is_symlink():
            raise UserError(
                f"{path} is a link, but all files of a run must be in its folder; replace the link by what it points to"
            )
    for path in run.folders:
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"{path} is not a folder")
    for path in run.files:
        if os.path.lexists(path) and not path.is_file():
            raise UserError(f"{path} is not a file")


def describe(
    run: RunFolder,
    settings: RunSettings,
    facts: Mapping[str, Any],
    registry: Registry,
    codec: str | None = None,
    first_stage: FirstStage | None = None,
) -> None:
    """Write config.json, and sign it as a run of this user. `codec` is the digest of the weights of the codec."""
    import torch

    used = parts_of(settings, registry)
    content = {
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
        **({} if codec is None else {"codec": codec}),
        **({} if first_stage is None else {"first_stage": first_stage.model_dump(mode="json")}),
    }
    write_summed_json(run.config, {**content, "signature": signature_of(content)})


def parts_of(settings: RunSettings, registry: Registry) -> list[dict[str, str]]:
    """The parts that a run uses, each with its kind, its name, and the distribution and version that provide it."""
    modality, chosen = registry.provided(settings.modality), chosen_parts(settings)
    provider = registry.tasks[chosen["task"].name]
    task, network = provider.record, f"{provider.record.network}s"
    offered = {kind: dict(getattr(registry, kind)) for kind in RECORDS}
    for kind, parts, owner in (
        ("datasets", modality.record.datasets, modality),
        (network, modality.record.networks_of(task.network), modality),
        (network, task.networks, provider),
    ):
        offered.setdefault(kind, {}).update(dict.fromkeys([part.name for part in parts], owner))
    named = {
        **{KINDS.get(kind, f"{kind}s"): [part.name] for kind, part in chosen.items()},
        "solvers": [settings.sample.solver_name],
        **{kind: list(additions(settings, table)) for table, kind in ADDITIONS.items()},
    }
    found = [("modalities", settings.modality, modality)]
    for kind, names in named.items():
        # A part that neither the modality nor a hook provides, such as a missing logger, was not used.
        found += [(kind, name, offered[kind][name]) for name in names if name in offered[kind]]
    return [
        {"kind": kind, "name": name, "distribution": provided.distribution, "version": provided.version}
        for kind, name, provided in found
    ]


def open_run(path: Path, registry: Registry) -> tuple[RunFolder, Description]:
    """The run in the folder `path`. Raises `UserError` that describes what is missing or damaged."""
    run = RunFolder(path)
    if not path.is_dir():
        raise UserError(f"no run folder {path}")
    check_folder(run)
    if not run.config.is_file():
        raise UserError(f"{path} is not a run folder: it has no config.json")
    content = read_summed_json(run.config)
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise UserError(f"{run.config} does not describe a run")
    own = is_own(content, content.pop("signature", None))
    settings = content["settings"]
    name = str(settings.get("modality"))
    if any(part not in registry.modalities for part in name.split(SIGN)):
        raise UserError(
            f"{path} was made with plugins that are not installed ({_listed(content, 'plugins')}): "
            f"unknown modality {name!r}"
        )
    settings = {**settings, **{kind: _installed(settings.get(kind), kind, name, registry) for kind in ADDITIONS}}
    composed = compose(registry, name, file=settings, origin=str(run.config))
    try:
        facts = validate(registry.modality(name).facts, content.get("facts", {}), f"{run.config}: facts")
    except UserError as error:
        raise UserError(f"{error}; they describe the training data: restore the file from a copy") from None
    codec, stage = content.get("codec"), content.get("first_stage")
    first_stage = None if stage is None else validate(FirstStage, stage, f"{run.config}: first_stage")
    return run, Description(composed, facts, own, None if codec is None else str(codec), first_stage)


def _installed(table: Any, kind: str, modality: str, registry: Registry) -> Any:
    """The metrics or loggers of a run that are installed. The model of the run does not need the others."""
    if not isinstance(table, dict):
        return table or {}
    offered = {part.name for part in registry.offered(ADDITIONS[kind], modality) if not missing(part)}
    for name in table.keys() - offered:
        logger.warning(f"the {kind} {name!r} of this run is not installed and is left out")
    return {name: options for name, options in table.items() if name in offered}


def provenance(run: RunFolder) -> dict[str, str]:
    """The versions and the machine that made the run, from config.json."""
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
"""`read_log` returns at most twice this number of rows: it leaves out every second row as often as needed."""


def append_log(run: RunFolder, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to train_log.jsonl."""
    append_lines(run.train_log, (json.dumps(row) for row in rows))


def read_log(run: RunFolder) -> list[dict[str, float]]:
    """The numbers of each line of train_log.jsonl. Damaged lines are left out, and their number is logged as a warning.

    Lines that record a step back have no `loss` and are left out.
    """
    rows: list[dict[str, float]] = []
    last, every, damaged = None, 1, 0
    for count, line in enumerate(_lines(run)):
        damaged += line.damaged
        if line.row is None or "loss" not in line.row:
            continue
        last = line.row
        if count % every == 0:
            rows.append(last)
        if len(rows) == 2 * MOST_ROWS:
            rows, every = rows[::2], 2 * every
    if damaged:
        logger.warning(f"{run.train_log} has damaged lines, which are left out: {damaged}")
    return [*rows, last] if last is not None and rows[-1] is not last else rows


def trim_log(run: RunFolder, step: int, steps_back: int = 0) -> None:
    """Delete the lines of train_log.jsonl after `step` steps or `steps_back` steps back, which will be run again.

    The file is truncated in place, which needs no space on the disk. If it has other hard links, as in a copy made of
    hard links, it is replaced by a new file instead, so that the others do not change.
    """
    end = 0
    for line in _lines(run):
        row = line.row
        if row is None or row["step"] > step or row.get("steps_back", 0) > steps_back or row.get("partial"):
            break
        end += line.size
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
    """Flush train_log.jsonl to the disk."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = open_regular(run.train_log)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Line:
    """A line of train_log.jsonl: its numbers, the number of damaged lines before it, and the bytes of all of these.

    There are no numbers (None) for damaged lines at the end.
    """

    row: dict[str, float] | None
    damaged: int
    size: int


def _lines(run: RunFolder) -> Iterator[_Line]:
    """The whole lines of train_log.jsonl.

    Steps never fall, so a line with a larger step than the next one is damaged, as one that holds no numbers is.
    """
    if not os.path.lexists(run.train_log):
        return
    held: _Line | None = None
    damaged = size = 0
    for line, length in read_lines(run.train_log):
        row, size = None if line is None else _numbers(line), size + length
        if row is None:
            damaged += 1
            continue
        if held is not None and held.row is not None and held.row["step"] > row["step"]:
            damaged, size = damaged + held.damaged + 1, size + held.size
        elif held is not None:
            yield held
        held, damaged, size = _Line(row, damaged, size), 0, 0
    if held is not None:
        yield held
    if damaged:
        yield _Line(None, damaged, size)


def _numbers(line: bytes) -> dict[str, float] | None:
    """The numbers of a line of train_log.jsonl; None if it is not one."""
    try:
        row = parse_json(line)
    except (ValueError, RecursionError):
        return None
    row = {key: value for key, value in row.items() if is_number(value)} if isinstance(row, dict) else {}
    return row if "step" in row and {"loss", "steps_back"} & row.keys() else None
