"""Loggers of other projects, which show a run's numbers and pictures. train_log.jsonl is written in any case."""

import os
import re
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins.builtin.loggers import TrackedOptions
from diffcore.plugins.output import Logger, Metric
from diffcore.plugins.records import NoOptions
from diffcore.system.files import read_regular, write_atomically

_PICTURE = ".png"
"""The file extension of pictures of samples that loggers can show. Of other files, TensorBoard shows the path."""


@dataclass
class TensorBoard:
    """Writes scalars by name, pictures and metrics to event files in `folder`.

    When training continues, what earlier event files contain from the first new step on is discarded, because those
    steps are repeated.
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
    """Return a logger of event files in the run's folder `tensorboard`; show them with `tensorboard --logdir RUN`."""
    return TensorBoard(_own(folder / "tensorboard"))


@dataclass(frozen=True)
class Tracked:
    """Writes to a run of Weights & Biases or of Trackio, whose interfaces are the same."""

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
    """Return a logger to Weights & Biases. A resumed run continues there; `WANDB_MODE=offline` keeps it local."""
    import wandb as library

    handle = library.init(
        project=options.project,
        name=_name(folder),
        id=_identity(_own(folder / "wandb")),
        resume="allow",
        dir=str(folder),
        config=dict(settings),
    )
    return Tracked(library, handle)


def trackio(options: TrackedOptions, folder: Path, settings: Mapping[str, Any]) -> Logger:
    """Return a logger to Trackio. A resumed run continues there; `trackio show` shows it."""
    import trackio as library

    name = f"{_name(folder)}-{_identity(_own(folder / 'trackio'))}"
    handle = library.init(project=options.project, name=name, resume="allow", config=dict(settings))
    return Tracked(library, handle)


def _name(folder: Path) -> str:
    """Return the name of a run: `rings-default-1` for the folder `runs/rings/default-1`."""
    return "-".join(folder.absolute().parts[-2:])


def _identity(folder: Path) -> str:
    """Return a random identifier of the run, which is drawn once and kept in the file `identity` of `folder`."""
    path = folder / "identity"
    if not os.path.lexists(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, secrets.token_hex(4).encode())
    identity = read_regular(path, most=100).decode(errors="replace").strip()
    if not re.fullmatch(r"[0-9a-f]{8}", identity):
        raise UserError(f"{path} is not the identifier of a run; delete it to start a new record")
    return identity


def _own(folder: Path) -> Path:
    """Return a folder of a run. Raises `UserError` if it is a link, which could lead out of the run."""
    if folder.is_symlink():
        raise UserError(f"{folder} is a link, but all files of a run must be in its folder; delete the link")
    return folder
