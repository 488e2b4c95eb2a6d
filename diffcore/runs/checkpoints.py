"""Checkpoints: folders of safetensors files, written atomically and verified when they are read.

    checkpoints/step-00001000/
        model.safetensors      weights
        ema.safetensors        their moving average, with which samples are drawn
        training.safetensors   the state of the optimiser
        manifest.json          step, seconds of training, steps back, size and SHA-256 of each file

Processes that share the weights (`train.parallel` fsdp) write their own rows of each tensor to files in folders
`model/`, `ema/` and `training/`, and the leader writes the rest of training.safetensors to rest.safetensors
(`diffcore.training.sharded_checkpointing`). `diffcore.runs.consolidating` makes the usual files of them.

The newest `keep_checkpoints` checkpoints are kept, and, if `keep_every` is given, all checkpoints whose step is a
multiple of it. A checkpoint is deleted only after a newer one was written and its content was verified by reading it.

Loading a checkpoint cannot execute code: a file is a JSON header and plain numbers (`diffcore.system.tensor_file`).
"""

import errno
import hashlib
import json
import logging
import re
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.runs.folder import RunFolder
from diffcore.runs.tensor_shards import Sharded, sharded_tensors
from diffcore.system.distributed import gathered, rank, world
from diffcore.system.files import (
    digest_of_file,
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
REST = "rest.safetensors"
"""What a checkpoint in shards has in place of training.safetensors: all of it that is not in shards."""
_MANIFEST = "manifest.json"
_DIGESTS = "digests"
"""The key of the manifest of a consolidated checkpoint with what `weights_digest` gave for it before."""
_SHARD = re.compile(r"[A-Za-z0-9_][\w.-]{0,200}\.safetensors")
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


Sums = dict[str, dict[str, Any]]
"""The size and the SHA-256 of each file of a checkpoint, by its path in the folder of the checkpoint."""


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
    part = begin(run, progress.step)
    try:
        sums = {name: write_tensors(part, name, tensors) for name, tensors in files.items()}
        return complete(run, progress, sums, keep, keep_every)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def begin(run: RunFolder, step: int) -> Path:
    """Make the empty temporary folder of the checkpoint of a step."""
    part = _part(run, step)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def _part(run: RunFolder, step: int) -> Path:
    return run.checkpoints / f".{_name(step)}.part"


def _name(step: int) -> str:
    return f"step-{step:08d}"


def write_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write a file of tensors in the temporary folder of a checkpoint, and read it again; return its sums."""
    content = content_of(tensors)
    write_atomically(folder / name, content)
    sums = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    del content
    if hashlib.sha256(read_back(folder / name)).hexdigest() != sums["sha256"]:
        raise differs(folder, name)
    return sums


def differs(part: Path, name: str) -> OSError:
    """What to raise if a file in the temporary folder of a checkpoint is not what was written to it."""
    final = part.with_name(part.name.removeprefix(".").removesuffix(".part"))
    return OSError(errno.EIO, "The file differs from what was written to it", str(final / name))


def complete(run: RunFolder, progress: Progress, sums: Sums, keep: int, keep_every: int | None = None) -> Path:
    """Make a checkpoint of its temporary folder, whose files have these sums, and delete the old ones."""
    part, final = _part(run, progress.step), run.checkpoints / _name(progress.step)
    write_json(part / _MANIFEST, {**vars(progress), "files": sums})
    if final.exists():
        _delete(final)
    part.replace(final)
    sync_folder(run.checkpoints)
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
    """Raise `DamagedCheckpointError` if any file of a checkpoint is damaged.

    Several processes must call this together: each reads a part of the files of a checkpoint in shards.
    """
    read_progress(checkpoint)
    files = [file for name in (MODEL, EMA, TRAINING) for file in files_of(checkpoint, name)]
    if is_sharded(checkpoint) and world() > 1:
        gathered(lambda: _require_intact(checkpoint, files[rank() :: world()]))
    else:
        _require_intact(checkpoint, files)


def _require_intact(checkpoint: Path, files: Sequence[str]) -> None:
    """Raise `DamagedCheckpointError` unless these files are what was written, reading them block by block."""
    for file in files:
        path, digest = checkpoint / file, _expected(checkpoint, file)
        try:
            found = digest_of_file(path)
        except OSError as error:
            raise _unreadable(checkpoint, path, error) from None
        except UserError as error:
            raise DamagedCheckpointError(f"{error}{_advice(checkpoint)}") from None
        if found != digest:
            raise _mismatch(checkpoint, path)
        _number_count(checkpoint, file)


def is_sharded(checkpoint: Path) -> bool:
    """Whether the tensors of a checkpoint lie in shards. Raises `DamagedCheckpointError` for a damaged manifest."""
    return bool(_shards(checkpoint, MODEL))


def files_of(checkpoint: Path, name: str) -> list[str]:
    """The files that hold the tensors of the file `name` of a checkpoint: that file, or all of its shards and the rest.

    Raises `DamagedCheckpointError` if the manifest is damaged.
    """
    if shards := _shards(checkpoint, name):
        return [*shards, *([REST] if name == TRAINING else [])]
    return [name]


def _shards(checkpoint: Path, name: str) -> list[str]:
    folder, files = name.removesuffix(".safetensors"), _manifest(checkpoint).get("files")
    names = [file for file in files if file.startswith(f"{folder}/")] if isinstance(files, dict) else []
    if any(_SHARD.fullmatch(file.removeprefix(f"{folder}/")) is None for file in names):
        raise DamagedCheckpointError(f"{checkpoint / _MANIFEST} does not describe a checkpoint")
    if names and (checkpoint / folder).is_symlink():
        raise DamagedCheckpointError(f"{checkpoint / folder} is a link: it is refused")
    return sorted(names)


def shards_of(checkpoint: Path, name: str) -> dict[str, Sharded]:
    """The tensors of the file `name` of a checkpoint, by the headers of its files: where the rows of each one lie.

    Raises `DamagedCheckpointError` if a file is missing or cut, or if rows are missing.
    """
    found, paths = files_of(checkpoint, name), []
    for file in found:
        _expected(checkpoint, file)
        paths.append(checkpoint / file)
    try:
        return sharded_tensors(paths)
    except OSError as error:
        raise _unreadable(checkpoint, Path(error.filename or paths[0]), error) from None
    except ValueError as error:
        raise DamagedCheckpointError(
            f"{checkpoint / found[0]} contains no readable tensors ({error}){_advice(checkpoint)}"
        ) from None
    except UserError as error:
        raise DamagedCheckpointError(f"{error}{_advice(checkpoint)}") from None


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


def replace_files(checkpoint: Path, sums: Sums) -> None:
    """Replace the files in the manifest of a checkpoint, atomically; `weights_digest` stays as it is."""
    digests = {name: weights_digest(checkpoint, name) for name in (MODEL, EMA)}
    write_json(checkpoint / _MANIFEST, {**_manifest(checkpoint), "files": sums, _DIGESTS: digests})


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
    Of a checkpoint in shards, the whole tensors are made.
    """
    files = files_of(checkpoint, name)
    if files != [name]:
        _require_intact(checkpoint, files)
        return {key: each.tensor() for key, each in shards_of(checkpoint, name).items()}
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
    """A digest of the weights in a file, from the manifest. Raises `DamagedCheckpointError` if it is not there.

    It is the SHA-256 of the file; of a checkpoint in shards, one of those of its files, which consolidating keeps.
    """
    digests = _manifest(checkpoint).get(_DIGESTS)
    if isinstance(digests, dict) and isinstance(kept := digests.get(name), str):
        return kept
    files = files_of(checkpoint, name)
    if files == [name]:
        return str(_expected(checkpoint, name))
    return hashlib.sha256(json.dumps({file: _expected(checkpoint, file) for file in files}).encode()).hexdigest()


def _read(checkpoint: Path, name: str) -> bytes:
    path, digest = checkpoint / name, _expected(checkpoint, name)
    try:
        content = read_regular(path, memory() // 2)
    except OSError as error:
        raise _unreadable(checkpoint, path, error) from None
    except UserError as error:
        raise DamagedCheckpointError(f"{error}{_advice(checkpoint)}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise _mismatch(checkpoint, path)
    return content


def _mismatch(checkpoint: Path, path: Path) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"{path} is damaged: its content does not match its checksum{_advice(checkpoint)}")


def count_numbers(checkpoint: Path, name: str) -> int:
    """The number of values in a file of a checkpoint according to its header; the rest is not read.

    Raises `DamagedCheckpointError` if the header is damaged.
    """
    return sum(_number_count(checkpoint, file) for file in files_of(checkpoint, name))


def _number_count(checkpoint: Path, name: str) -> int:
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
