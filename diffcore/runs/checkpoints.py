"""Checkpoints: folders of safetensors, written whole or not at all, and checked when read.

    checkpoints/step-00001000/
        model.safetensors      weights
        ema.safetensors        their moving average, which samples are drawn with
        training.safetensors   state of the optimiser
        manifest.json          step, seconds of training, steps back, size and SHA-256 of each file

Which are kept: the newest `keep_checkpoints`, and for good those whose step is a multiple of `keep_every`, where that
is given. One is deleted only once a newer one was written and read back as it was written.

Nothing here can execute code: a file is a header of JSON and plain numbers.
"""

import errno
import hashlib
import logging
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from diffcore.errors import UserError
from diffcore.runs.folder import RunFolder
from diffcore.system.files import (
    is_number,
    memory,
    open_regular,
    parse_json,
    read_back,
    read_json,
    read_regular,
    sync_folder,
    write_atomically,
    write_json,
)

logger = logging.getLogger(__name__)


MODEL, EMA, TRAINING = "model.safetensors", "ema.safetensors", "training.safetensors"
_MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,15})")

MOST_HEADER = 16 * 2**20
"""Bytes of the header of a file of weights, at most."""

Read = TypeVar("Read")


class UnsoundError(UserError):
    """A checkpoint that is not as it was written."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps, seconds of training, and how often it stepped back from a loss that exploded."""

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
    """Write a checkpoint, then delete all but the newest `keep` and those of every `keep_every`-th step.

    The files are written beside, read back and renamed together at the end, so a crash or a full disk leaves the
    earlier checkpoints as they were. An `OSError` says what failed.
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
            del content
            if hashlib.sha256(read_back(part / name)).hexdigest() != sums[name]["sha256"]:
                raise OSError(errno.EIO, "What was written is not what is read back", str(final / name))
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
    """Change what a checkpoint's manifest says of the run's progress, atomically. Its step stays."""
    content = read_json(checkpoint / _MANIFEST)
    write_json(checkpoint / _MANIFEST, {**content, **vars(progress), "step": step_of(checkpoint)})


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint so that it is there whole or not at all."""
    gone = checkpoint.with_name(f".{checkpoint.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name tells."""
    found = _NAME.fullmatch(checkpoint.name)
    assert found is not None, checkpoint
    return int(found[1])


def checkpoints(run: RunFolder) -> list[Path]:
    """The run's checkpoints, oldest first: folders, no links, that bear the name of one and have a manifest."""
    if run.checkpoints.is_symlink() or not run.checkpoints.is_dir():
        return []
    found = [
        path
        for path in run.checkpoints.iterdir()
        if _NAME.fullmatch(path.name) and not path.is_symlink() and (path / _MANIFEST).exists()
    ]
    return sorted(found, key=step_of)


def discard_after(run: RunFolder, step: int) -> None:
    """Delete the checkpoints of later steps: those steps are about to be run again."""
    for path in checkpoints(run):
        if step_of(path) > step:
            _delete(path)


def verify(checkpoint: Path) -> None:
    """Raise `UnsoundError` unless every file of a checkpoint is as it was written."""
    read_progress(checkpoint)
    for name in (MODEL, EMA, TRAINING):
        read_tensors(checkpoint, name)


def find_checkpoint(run: RunFolder, name: str | None = None) -> Path:
    """The checkpoint of that name, or the newest, whether sound or not."""
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


def newest_sound(run: RunFolder, read: Callable[[Path], Read], name: str | None = None) -> tuple[Path, Read]:
    """The newest checkpoint that `read` finds sound, or the one of that name alone; and what `read` found.

    Those that are passed over are said, each with its reason. A checkpoint that training deletes while it is read is
    not damaged: a newer one is there then. Raises `UserError` where none is sound.
    """
    refused: dict[str, str] = {}
    while True:
        left = [path for path in checkpoints(run) if path.name not in refused]
        if refused and not left and name is None:
            newest, reason = next(iter(refused.items()))
            raise UserError(
                f"{run.path} has no checkpoint that can be used ({len(refused)} refused); {newest}: {reason}"
            )
        checkpoint = left[-1] if name is None and left else find_checkpoint(run, name)
        try:
            return checkpoint, read(checkpoint)
        except UnsoundError as error:
            if not checkpoint.exists():
                if name is None:
                    continue
                listed = ", ".join(path.name for path in checkpoints(run)) or "none"
                raise UserError(
                    f"{run.path}: training, which keeps the newest, deleted {name} while it was read; "
                    f"there are: {listed}"
                ) from None
            if name is not None:
                raise
            refused[checkpoint.name] = str(error)
            logger.warning(f"{checkpoint.name} is refused: {error}")


def read_progress(checkpoint: Path) -> Progress:
    """How far the run was at a checkpoint."""
    manifest = _manifest(checkpoint)
    values: tuple[Any, ...] = (manifest.get("step"), manifest.get("seconds"), manifest.get("steps_back", 0))
    step, seconds, back = values
    sound = _is_count(step) and _is_count(back) and is_number(seconds) and seconds >= 0
    if not sound or step != step_of(checkpoint):
        raise UnsoundError(f"{checkpoint / _MANIFEST} does not describe a checkpoint")
    return Progress(step, float(seconds), back)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60


def _manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        manifest = read_json(checkpoint / _MANIFEST)
    except UserError as error:
        raise UnsoundError(str(error)) from None
    if not isinstance(manifest, dict):
        raise UnsoundError(f"{checkpoint / _MANIFEST} does not describe a checkpoint")
    return manifest


def read_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint, once its size and sum are those of its manifest.

    Nothing is read of a file that is larger than half the machine's memory. Raises `UnsoundError`.
    """
    content, path = _read(checkpoint, name), checkpoint / name
    try:
        check_header(content, len(content))
        return load(content)
    except _MALFORMED as error:
        raise UnsoundError(f"{path} holds no tensors that can be read ({error}){_advice(checkpoint)}") from None


def _expected(checkpoint: Path, name: str) -> str:
    """The sum of a file by the manifest; raises `UnsoundError` where the file has another size."""
    path = checkpoint / name
    try:
        expected = _manifest(checkpoint)["files"][name]
        size, digest = expected["bytes"], expected["sha256"]
    except (KeyError, TypeError):
        raise UnsoundError(f"{checkpoint / _MANIFEST} does not describe {name}") from None
    try:
        there = path.lstat()
    except OSError as error:
        raise UnsoundError(f"{path} cannot be read ({error.strerror}){_advice(checkpoint)}") from None
    if stat.S_ISREG(there.st_mode) and there.st_size != size:
        raise UnsoundError(f"{path} is damaged: {there.st_size} bytes, expected {size}{_advice(checkpoint)}")
    return digest


def _read(checkpoint: Path, name: str) -> bytes:
    path, digest = checkpoint / name, _expected(checkpoint, name)
    try:
        content = read_regular(path, memory() // 2)
    except OSError as error:
        raise UnsoundError(f"{path} cannot be read ({error.strerror}){_advice(checkpoint)}") from None
    except UserError as error:
        raise UnsoundError(f"{error}{_advice(checkpoint)}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise UnsoundError(f"{path} is damaged: its content does not match its checksum{_advice(checkpoint)}")
    return content


def count_numbers(checkpoint: Path, name: str) -> int:
    """How many numbers a file of a checkpoint holds by its header, which alone is read. Raises `UnsoundError`."""
    path = checkpoint / name
    _expected(checkpoint, name)
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            return check_header(head + file.read(min(int.from_bytes(head, "little"), MOST_HEADER)), size)
    except OSError as error:
        raise UnsoundError(f"{path} cannot be read ({error.strerror}){_advice(checkpoint)}") from None
    except _MALFORMED as error:
        raise UnsoundError(f"{path} holds no tensors that can be read ({error}){_advice(checkpoint)}") from None
    except UserError as error:
        raise UnsoundError(f"{error}{_advice(checkpoint)}") from None


_MALFORMED = (SafetensorError, ValueError, KeyError, TypeError, RecursionError, RuntimeError, OverflowError)
"""What reading raises where the header of a file of weights is not one."""


def check_header(head: bytes, size: int) -> int:
    """How many numbers a file of safetensors of `size` bytes, which begins with `head`, holds.

    Eight bytes tell the length of a header, a table of each tensor's type, shape and place behind the header; the
    places must follow each other without gap up to the file's end. Raises `ValueError` where they do not.
    """
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(MOST_HEADER, size - 8):
        raise ValueError(f"its header would have {length:,} bytes")
    table = parse_json(head[8 : 8 + length])
    if not isinstance(table, dict):
        raise ValueError("its header is no table")
    total, places = 0, []
    for key, entry in table.items():
        if key == "__metadata__":
            continue
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        if not all(_is_count(value) for value in (*shape, start, end)) or len(shape) > 16:
            raise ValueError(f"{key[:80]!r} has no shape or place")
        total += math.prod(shape)
        places.append((start, end))
    position = 0
    for start, end in sorted(places):
        if start != position or end < start:
            raise ValueError("its tensors overlap, or leave gaps")
        position = end
    if position != size - 8 - length:
        raise ValueError(f"its tensors take {position:,} bytes of {size - 8 - length:,}")
    return total


def _advice(checkpoint: Path) -> str:
    others = [path.name for path in checkpoints(RunFolder(checkpoint.parent.parent)) if path != checkpoint]
    return f"; try `checkpoint` {others[-1]}" if others else "; there is no other checkpoint in this run"
