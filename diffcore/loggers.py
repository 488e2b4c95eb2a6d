"""Loggers of other projects: a run's numbers and pictures beside metrics.jsonl, which is always written."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcore.builtin import TrackedOptions
from diffcore.components import NoOptions
from diffcore.output import Figure, Logger

_PICTURES = (".png", ".jpg", ".jpeg")
"""Endings of samples' overviews that loggers can show; others are named by their path."""


@dataclass(frozen=True)
class TensorBoard:
    """Scalars by name, pictures and figures, in the run's folder `tensorboard`."""

    writer: Any

    def row(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, int(row["step"]))

    def picture(self, step: int, path: Path) -> None:
        if path.suffix in _PICTURES:
            from tensorboard.compat.proto.summary_pb2 import Summary

            shown = Summary.Image(encoded_image_string=path.read_bytes())
            self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="samples", image=shown)]), step)
        else:
            self.writer.add_text("samples", str(path), step)

    def figures(self, step: int, figures: Sequence[Figure]) -> None:
        for figure in figures:
            self.writer.add_scalar(f"figures/{figure.name}", figure.value, step)

    def close(self) -> None:
        self.writer.close()


def tensorboard(options: NoOptions, folder: Path, settings: Mapping[str, Any]) -> Logger:
    """Write event files that `tensorboard --logdir RUN` shows."""
    from torch.utils.tensorboard.writer import SummaryWriter

    return TensorBoard(SummaryWriter(folder / "tensorboard"))


@dataclass(frozen=True)
class Tracked:
    """A run of Weights & Biases or of Trackio, which have the same form."""

    library: Any
    handle: Any

    def row(self, row: Mapping[str, float]) -> None:
        self.handle.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))

    def picture(self, step: int, path: Path) -> None:
        if path.suffix in _PICTURES:
            self.handle.log({"samples": self.library.Image(str(path))}, step=step)

    def figures(self, step: int, figures: Sequence[Figure]) -> None:
        self.handle.log({f"figures/{figure.name}": figure.value for figure in figures}, step=step)

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
