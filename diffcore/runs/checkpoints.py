"""Checkpoints: folders of safetensors files, written atomically and verified when they are read.

    checkpoints/step-00001000/
        model.safetensors      weights
        ema.safetensors        their moving average, with which samples are drawn
        training.safetensors   the state of the optimiser
        manifest.json          step, seconds of training, steps back, size and SHA-256 of each file

The newest `keep_checkpoints` checkpoints are kept, and, if `keep_every` is given, all checkpoints whose step is a
multiple of it. A checkpoint is deleted only after a newer one was written and its content was verified by reading it.

Loading a checkpoint cannot execute code: a file is a JSON header and plain numbers (`diffcore.system.tensor_file`).
"""

import errno
import hashlib
import logging
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.runs.folder import RunFolder
from diffcore.system.files import (
    is_count,
    is_number,
    memory,
    read_back,
    read_json,
    read_regular,
    sync_folder,
    write_atomically,
    write_json,
)
from diffcore.system.tensor_file import content_of, numbers_in, tensors_in

logger = logging.getLogger(__name__)


MODEL, EMA, TRAINING = "model.safetensors", "ema.safetensors", "training.safetensors"
_MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,15})")


Read = TypeVar("Read")


class DamagedCheckpointError(UserError):
    """A checkpoint is damaged: its files differ from what was written."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run: steps, seconds of training, and how often it stepped back because its loss diverged."""

    step: int = 0
    seconds: float = 0.0
    steps_back: int = 0


def write_checkpoint(
    run: RunFolder,
    progress: Progress,
    files: Mapping[str, Mapping[str, Tensor]],
    keep: int,
    keep_every: int | None = None,
) -> Path:
    """Write a checkpoint, then delete all others but the newest `keep` and those at multiples of `keep_every`.

    The files are written to a temporary folder and verified by reading them; the folder is renamed at the end. So a
    crash or a full disk leaves the earlier checkpoints unchanged. Raises `OSError` that describes what failed.
    """
    final = run.checkpoints / f"step-{progress.step:08d}"
    part = run.checkpoints / f".{final.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        sums = {}
        for name, tensors in files.items():
            content = content_of(tensors)
            write_atomically(part / name, content)
            sums[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            del content
            if hashlib.sha256(read_back(part / name)).hexdigest() != sums[name]["sha256"]:
                raise OSError(errno.EIO, "The file differs from what was written to it", str(final / name))
        write_json(part / _MANIFEST, {**vars(progress), "files": sums})
        if final.exists():
            _delete(final)
        part.replace(final)
        sync_folder(run.checkpoints)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in checkpoints(run)[:-keep]:
        if keep_every is None or step_of(old) % keep_every:
            _delete(old)
    return final


def rewrite_progress(checkpoint: Path, progress: Progress) -> None:
    """Replace the progress in the manifest of a checkpoint, atomically. The step does not change."""
    content = read_json(checkpoint / _MANIFEST)
    write_json(checkpoint / _MANIFEST, {**content, **vars(progress), "step": step_of(checkpoint)})


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint atomically: it is renamed first, so that an incomplete one is never found."""
    gone = checkpoint.with_name(f".{checkpoint.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint."""
    found = _NAME.fullmatch(checkpoint.name)
    assert found is not None, checkpoint
    return int(found[1])


def checkpoints(run: RunFolder) -> list[Path]:
    """The checkpoints of a run, oldest first: folders, not links, with the name of a checkpoint and a manifest."""
    if run.checkpoints.is_symlink() or not run.checkpoints.is_dir():
        return []
    found = [
        path
        for path in run.checkpoints.iterdir()
        if _NAME.fullmatch(path.name) and not path.is_symlink() and (path / _MANIFEST).exists()
    ]
    return sorted(found, key=step_of)


def _without_manifest(run: RunFolder) -> list[Path]:
    """The folders with the name of a checkpoint that cannot be checked."""
    if run.checkpoints.is_symlink() or not run.checkpoints.is_dir():
        return []
    return [p for p in sorted(run.checkpoints.iterdir()) if _NAME.fullmatch(p.name) and not (p / _MANIFEST).exists()]


def discard_after(run: RunFolder, step: int) -> None:
    """Delete the checkpoints of later steps, because training will run these steps again."""
    for path in checkpoints(run):
        if step_of(path) > step:
            _delete(path)


def verify(checkpoint: Path) -> None:
    """Raise `DamagedCheckpointError` if any file of a checkpoint is damaged."""
    read_progress(checkpoint)
    for name in (MODEL, EMA, TRAINING):
        read_tensors(checkpoint, name)


def find_checkpoint(run: RunFolder, name: str | None = None) -> Path:
    """The checkpoint of that name, or the newest one. It may be damaged. Raises `UserError` if there is none."""
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


def newest_undamaged(run: RunFolder, read: Callable[[Path], Read], name: str | None = None) -> tuple[Path, Read]:
    """The newest undamaged checkpoint, or the one of that `name`, and the result of `read` for it.

    `read` raises `DamagedCheckpointError` for a damaged checkpoint, and the next older one is tried. Each checkpoint
    that is skipped is logged with the reason. A checkpoint that training deletes while it is read does not count as
    damaged: there is a newer one then. Raises `UserError` if all are damaged, and `DamagedCheckpointError` if the one
    of that `name` is.
    """
    for path in _without_manifest(run):
        logger.warning(f"{path} is refused: it has no {_MANIFEST}, with which its files are checked")
    refused: dict[str, str] = {}
    while True:
        left = [path for path in checkpoints(run) if path.name not in refused]
        if refused and not left and name is None:
            newest, reason = next(iter(refused.items()))
            raise UserError(f"{run.path} has no usable checkpoint ({len(refused)} damaged); {newest}: {reason}")
        checkpoint = left[-1] if name is None and left else find_checkpoint(run, name)
        try:
            return checkpoint, read(checkpoint)
        except DamagedCheckpointError as error:
            if not checkpoint.exists():
                if name is None:
                    continue
                listed = ", ".join(path.name for path in checkpoints(run)) or "none"
                raise UserError(
                    f"{run.path}: {name} was deleted while it was read, by training, which keeps the newest; "
                    f"there are: {listed}"
                ) from None
            if name is not None:
                raise
            refused[checkpoint.name] = str(error)
            logger.warning(f"{checkpoint.name} is skipped: {error}")


def read_progress(checkpoint: Path) -> Progress:
    """The progress of the run at a checkpoint. Raises `DamagedCheckpointError` if its manifest is damaged."""
    manifest = _manifest(checkpoint)
    values: tuple[Any, ...] = (manifest.get("step"), manifest.get("seconds"), manifest.get("steps_back", 0))
    step, seconds, back = values
    valid = is_count(step) and is_count(back) and is_number(seconds) and seconds >= 0
    if not valid or step != step_of(checkpoint):
        raise DamagedCheckpointError(f"{checkpoint / _MANIFEST} does not describe a checkpoint")
    return Progress(step, float(seconds), back)


def _manifest(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / _MANIFEST
    try:
        manifest = read_json(path)
    except OSError as error:
        raise _unreadable(checkpoint, path, error) from None
    except UserError as error:
        raise DamagedCheckpointError(str(error)) from None
    if not isinstance(manifest, dict):
        raise DamagedCheckpointError(f"{checkpoint / _MANIFEST} does not describe a checkpoint")
    return manifest


def read_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint, after comparing its size and SHA-256 with the manifest.

    Raises `DamagedCheckpointError` if they differ, and if the file is larger than half of the memory of this machine.
    """
    content, path = _read(checkpoint, name), checkpoint / name
    try:
        return tensors_in(content)
    except ValueError as error:
        raise DamagedCheckpointError(f"{path} contains no readable tensors ({error}){_advice(checkpoint)}") from None


def _expected(checkpoint: Path, name: str) -> str:
    """The SHA-256 of a file in the manifest. Raises `DamagedCheckpointError` if its size is not the one there."""
    path = checkpoint / name
    try:
        expected = _manifest(checkpoint)["files"][name]
        size, digest = expected["bytes"], expected["sha256"]
    except (KeyError, TypeError):
        raise DamagedCheckpointError(f"{checkpoint / _MANIFEST} does not describe {name}") from None
    try:
        status = path.lstat()
    except OSError as error:
        raise _unreadable(checkpoint, path, error) from None
    if stat.S_ISREG(status.st_mode) and status.st_size != size:
        raise DamagedCheckpointError(f"{path} is damaged: {status.st_size} bytes, expected {size}{_advice(checkpoint)}")
    return digest


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """A SHA-256 of the names, the shapes, the types and the values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):  # a file may have another order
        digest.update(f"{name} {[*tensor.shape]} {tensor.dtype} ".encode(errors="surrogateescape"))
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_digest(checkpoint: Path, name: str = EMA) -> str:
    """The SHA-256 of a file of weights, from the manifest. Raises `DamagedCheckpointError` if it is not there."""
    return str(_expected(checkpoint, name))


def _read(checkpoint: Path, name: str) -> bytes:
    path, digest = checkpoint / name, _expected(checkpoint, name)
    try:
        content = read_regular(path, memory() // 2)
    except OSError as error:
        raise _unreadable(checkpoint, path, error) from None
    except UserError as error:
        raise DamagedCheckpointError(f"{error}{_advice(checkpoint)}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedCheckpointError(f"{path} is damaged: its content does not match its checksum{_advice(checkpoint)}")
    return content


def count_numbers(checkpoint: Path, name: str) -> int:
    """The number of values in a file of a checkpoint according to its header; the rest is not read.

    Raises `DamagedCheckpointError` if the header is damaged.
    """
    path = checkpoint / name
    _expected(checkpoint, name)
    try:
        return numbers_in(path)
    except OSError as error:
        raise _unreadable(checkpoint, path, error) from None
    except ValueError as error:
        raise DamagedCheckpointError(f"{path} contains no readable tensors ({error}){_advice(checkpoint)}") from None
    except UserError as error:
        raise DamagedCheckpointError(f"{error}{_advice(checkpoint)}") from None


_LOST = frozenset(
    getattr(errno, name)
    for name in ("ENOENT", "ENOTDIR", "EISDIR", "EIO", "ENXIO", "ESTALE", "EBADMSG", "EUCLEAN", "ENODATA")
    if hasattr(errno, name)
)
"""What the system answers if a file is gone or its medium is damaged, and no later attempt will help."""


def _unreadable(checkpoint: Path, path: Path, error: OSError) -> Exception:
    """What to raise for an error of the system: a damaged checkpoint only if the file is lost.

    With another error, such as too many open files or no permission, the checkpoint may be intact. It is not passed
    over, as training would then repeat its steps, and samples would be those of older weights.
    """
    if error.errno in _LOST:
        return DamagedCheckpointError(f"{path} cannot be read ({error.strerror}){_advice(checkpoint)}")
    return OSError(error.errno, error.strerror, str(path))


def _advice(checkpoint: Path) -> str:
    others = [path.name for path in checkpoints(RunFolder(checkpoint.parent.parent)) if path != checkpoint]
    return f"; try `checkpoint` {others[-1]}" if others else "; there is no other checkpoint in this run"
