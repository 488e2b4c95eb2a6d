"""Joining the shards of a checkpoint to the usual files."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from diffcore.runs.checkpoints import (
    EMA,
    MODEL,
    REST,
    TRAINING,
    DamagedCheckpointError,
    Sums,
    differs,
    replace_files,
    shards_of,
    verify,
)
from diffcore.runs.tensor_shards import whole_file
from diffcore.system.files import digest_of_file, write_blocks_atomically


def consolidate(checkpoint: Path) -> None:
    """Join the shards of a checkpoint to the usual files, with a block of 16 MiB of a tensor in memory at a time.

    The new files lie beside the shards and are verified before the manifest is replaced, which is done atomically; then
    the shards are deleted. So a crash leaves the checkpoint in shards or whole. Raises `DamagedCheckpointError`.
    """
    verify(checkpoint)
    names = (MODEL, EMA, TRAINING)
    sums: Sums = {name: _joined(checkpoint, name) for name in names}
    replace_files(checkpoint, sums)
    (checkpoint / REST).unlink(missing_ok=True)
    for name in names:
        shutil.rmtree(checkpoint / name.removesuffix(".safetensors"), ignore_errors=True)


def _joined(checkpoint: Path, name: str) -> dict[str, int | str]:
    """Write the file `name` of the tensors in its shards, and read it again; return its sums."""
    digest = hashlib.sha256()

    def content() -> Iterator[bytes]:
        for block in whole_file(shards_of(checkpoint, name)):
            digest.update(block)
            yield block

    path = checkpoint / name
    try:
        write_blocks_atomically(path, content())
    except ValueError as error:  # a file was cut since it was verified
        raise DamagedCheckpointError(f"{checkpoint}: {error}") from None
    if digest_of_file(path) != digest.hexdigest():
        raise differs(checkpoint, name)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
