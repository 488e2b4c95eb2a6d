"""Loggers of other projects: a run's numbers and pictures beside train_log.jsonl, which is always written."""

import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcore.plugins.builtin import TrackedOptions
from diffcore.plugins.output import Logger, Metric
from diffcore.plugins.records import NoOptions

_PICTURE = ".png"
"""The ending of samples' overviews that loggers can show; others are named by their path."""


@dataclass
class TensorBoard:
    """Scalars by name, pictures and metrics, in event files in `folder`.

    What earlier files in there say of the first step that is told, and of later ones, is void: those were run again.
    """

    folder: Path
    _open: Any = None

    def row(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer(int(row["step"])).add_scalar(name, value, int(row["step"]))

    def picture(self, step: int, path: Path) -> None:
        if path.suffix != _PICTURE:
            return self._writer(step).add_text("samples", str(path), step)
        from tensorboard.compat.proto.summary_pb2 import Summary

        content = path.read_bytes()
        width, height = struct.unpack(">II", content[16:24])  # of the header of a PNG file
        shown = Summary.Image(width=width, height=height, encoded_image_string=content)
        summary = Summary(value=[Summary.Value(tag="samples", image=shown)])
        self._writer(step).file_writer.add_summary(summary, step)

    def metrics(self, step: int, metrics: Sequence[Metric]) -> None:
        for metric in metrics:
            self._writer(step).add_scalar(f"metrics/{metric.name}", metric.value, step)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()

    def _writer(self, step: int) -> Any:
        if self._open is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._open = SummaryWriter(self.folder, purge_step=step)
        return self._open


def tensorboard(options: NoOptions, folder: Path, settings: Mapping[str, Any]) -> Logger:
    """Event files in the run's folder `tensorboard`, which `tensorboard --logdir RUN` shows."""
    return TensorBoard(folder / "tensorboard")


@dataclass(frozen=True)
class Tracked:
    """A run of Weights & Biases or of Trackio, which have the same form."""

    library: Any
    handle: Any

    def row(self, row: Mapping[str, float]) -> None:
        self.handle.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))

    def picture(self, step: int, path: Path) -> None:
        if path.suffix == _PICTURE:
            self.handle.log({"samples": self.library.Image(str(path))}, step=step)

    def metrics(self, step: int, metrics: Sequence[Metric]) -> None:
        self.handle.log({f"metrics/{metric.name}": metric.value for metric in metrics}, step=step)

    def close(self) -> None:
        self.handle.finish()


def wandb(options: TrackedOptions, folder: Path, settings: Mapping[str, Any]) -> Logger:
    """A run of Weights & Biases, the same one when training goes on. `WANDB_MODE=offline` keeps it on this machine."""
    import wandb as library

    handle = library.init(
        project=options.project,
        name=_name(folder),
        id=_identity(folder / "wandb"),
        resume="allow",
        dir=str(folder),
        config=dict(settings),
    )
    return Tracked(library, handle)


def trackio(options: TrackedOptions, folder: Path, settings: Mapping[str, Any]) -> Logger:
    """A run of Trackio, the same one when training goes on; `trackio show` shows it."""
    import trackio as library

    name = f"{_name(folder)}-{_identity(folder / 'trackio')}"
    handle = library.init(project=options.project, name=name, resume="allow", config=dict(settings))
    return Tracked(library, handle)


def _name(folder: Path) -> str:
    """`rings-default-1` for the folder `runs/rings/default-1`."""
    return "-".join(folder.absolute().parts[-2:])


def _identity(folder: Path) -> str:
    """What tells this run from all others: drawn once, then kept in the file `identity` of the logger's folder."""
    path = folder / "identity"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4))
    return path.read_text().strip()
