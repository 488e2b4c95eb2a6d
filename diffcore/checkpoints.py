"""Checkpoints: folders of safetensors, written whole or not at all, and checked when read.

    checkpoints/step-00001000/
        model.safetensors      weights
        ema.safetensors        their moving average, which samples are drawn with
        training.safetensors   state of the optimiser
        manifest.json          step, seconds of training, size and SHA-256 of each file

Nothing here can execute code.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from diffcore.errors import UserError
from diffcore.runs import Run, read_json, write_atomically, write_json

MODEL, EMA, TRAINING = "model.safetensors", "ema.safetensors", "training.safetensors"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0
    seconds: float = 0.0


def write_checkpoint(run: Run, progress: Progress, files: Mapping[str, Mapping[str, Tensor]], keep: int) -> Path:
    """Write a checkpoint, then delete all but the newest `keep`.

    The files are written beside and renamed together at the end, so a crash or a full disk leaves the earlier
    checkpoints as they were.
    """
    final = run.checkpoints / f"step-{progress.step:08d}"
    part = run.checkpoints / f".{final.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        sums = {}
        for name, tensors in files.items():
            content = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
            write_atomically(part / name, content)
            sums[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        write_json(part / _MANIFEST, {"step": progress.step, "seconds": progress.seconds, "files": sums})
        if final.exists():
            shutil.rmtree(final)
        part.replace(final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(run: Run) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(run.checkpoints.glob("step-*")) if run.checkpoints.is_dir() else []


def discard_after(run: Run, step: int) -> None:
    """Delete the checkpoints of later steps: those steps are about to be run again."""
    for path in checkpoints(run):
        if path.name > f"step-{step:08d}":
            shutil.rmtree(path)


def verify(checkpoint: Path) -> None:
    """Raise `UserError` unless every file of a checkpoint is as it was written."""
    for name in (MODEL, EMA, TRAINING):
        read_tensors(checkpoint, name)


def find_checkpoint(run: Run, name: str | None = None) -> Path:
    """The checkpoint of that name, or the newest."""
    found = checkpoints(run)
    if name is not None:
        matching = [path for path in found if path.name == name]
        if not matching:
            listed = ", ".join(path.name for path in found) or "none"
            raise UserError(f"{run.path} has no checkpoint {name!r}; there are: {listed}")
        return matching[0]
    if not found:
        raise UserError(f"{run.path} has no checkpoint yet")
    return found[-1]


def read_progress(checkpoint: Path) -> Progress:
    """How far the run was at a checkpoint."""
    manifest = read_json(checkpoint / _MANIFEST)
    try:
        return Progress(int(manifest["step"]), float(manifest["seconds"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{checkpoint / _MANIFEST} does not describe a checkpoint") from None


def read_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint, once its size and sum are those of its manifest."""
    manifest = read_json(checkpoint / _MANIFEST)
    path = checkpoint / name
    try:
        expected = manifest["files"][name]
        size, digest = expected["bytes"], expected["sha256"]
    except (KeyError, TypeError):
        raise UserError(f"{checkpoint / _MANIFEST} does not describe {name}") from None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}){_advice(checkpoint)}") from None
    if len(content) != size:
        raise UserError(f"{path} is damaged: {len(content)} bytes, expected {size}{_advice(checkpoint)}")
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{path} is damaged: its content does not match its checksum{_advice(checkpoint)}")
    return load(content)


def _advice(checkpoint: Path) -> str:
    others = [path.name for path in sorted(checkpoint.parent.glob("step-*")) if path != checkpoint]
    return f"; try --checkpoint {others[-1]}" if others else "; there is no other checkpoint in this run"
