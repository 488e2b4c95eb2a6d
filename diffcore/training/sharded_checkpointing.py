"""Checkpoints of which each process writes and reads its own rows, by `torch.distributed.checkpoint`.

The rows are written in the format of safetensors (`HuggingFaceStorageWriter`): PyTorch's own format keeps the places of
the rows in a pickle, `.metadata`, and loading a pickle can execute code, which no checkpoint of diffcore can. Here each
file says in its JSON header which rows of which tensor it has, and the reader takes nothing else.

No process has a whole tensor in memory, be it while the rows are written, verified or read by another number of
processes. What is small (the steps of the optimiser, the losses) is written by the leader.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor

from diffcore.runs.checkpoints import (
    REST,
    Progress,
    Sums,
    begin,
    complete,
    differs,
    files_of,
    write_tensors,
)
from diffcore.runs.folder import RunFolder
from diffcore.system.distributed import from_leader, gathered, leads, lowest, rank, world
from diffcore.system.files import digest_of_file
from diffcore.training.divergence import all_finite
from diffcore.training.parallel import local
from diffcore.training.state import Tensors

Result = TypeVar("Result")

_MOST_OF_A_FILE = 2**28
"""Bytes of the rows of one process in a file, about: a file is put together in memory before it is written."""


def non_finite_rows(files: Mapping[str, Tensors]) -> str | None:
    """Like `divergence.non_finite`, for tensors of which each process has rows; the same in all processes."""
    names = [(file, name) for file in sorted(files) for name in sorted(files[file])]
    bad = [
        number
        for number, (file, name) in enumerate(names)
        if files[file][name].is_floating_point() and not all_finite([local(files[file][name])])
    ]
    first = lowest(bad[0] if bad else len(names))
    return "{1} of {0} is no longer finite".format(*names[first]) if first < len(names) else None


def write(
    run: RunFolder,
    progress: Progress,
    files: Mapping[str, Tensors],
    rest: Tensors,
    keep: int,
    keep_every: int | None,
    before: Callable[[], Any],
    after: Callable[[Path], Any],
) -> Path:
    """Write a checkpoint as `write_checkpoint` does, each process its rows. All processes must call this together.

    * `files`: the tensors by the file that would hold them whole. Those that are not sharded are the leader's.
    * `rest`: small tensors of the leader, for rest.safetensors.
    * `before`, `after`: called by the leader before the folder is renamed, and with its path after that.
    """
    part = from_leader(lambda: begin(run, progress.step))
    try:
        sums: Sums = {}
        for name, tensors in files.items():
            folder = part / name.removesuffix(".safetensors")
            own = {key: each for key, each in tensors.items() if leads() or isinstance(each, DTensor)}
            _save(folder, own, tensors)
            for found in gathered(lambda: _verified(part, folder, own)):  # noqa: B023
                sums |= found

        def finish() -> Path:
            before()
            sums[REST] = write_tensors(part, REST, rest)
            path = complete(run, progress, sums, keep, keep_every)
            after(path)
            return path

        return from_leader(finish)
    finally:
        if leads():
            shutil.rmtree(part, ignore_errors=True)


def _save(folder: Path, own: Tensors, tensors: Tensors) -> None:
    """Write the own rows of these tensors to files in a folder, at most so many in one that they fit into memory."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    numbers, number, size = {}, 1, 0
    for name, tensor in sorted(tensors.items()):
        share = tensor.numel() * tensor.element_size() // (world() if isinstance(tensor, DTensor) else 1)
        if size and size + share > _MOST_OF_A_FILE:
            number, size = number + 1, 0
        numbers[name], size = number, size + share
    writer = HuggingFaceStorageWriter(str(folder), numbers, save_distributed=True)
    _in_all(lambda: save(dict(own), storage_writer=writer))


def _verified(part: Path, folder: Path, own: Tensors) -> Sums:
    """The sums of the files that this process has written, after comparing what they hold with its rows."""
    sums: Sums = {}
    for path in sorted(folder.glob(f"shard-{rank() + 1:05d}-*.safetensors")):
        name = f"{folder.name}/{path.name}"
        sums[name] = {"bytes": path.stat().st_size, "sha256": digest_of_file(path)}
        with safe_open(path, framework="pt") as file:
            for key in file.keys():
                if not torch.equal(file.get_tensor(key), local(own[key]).detach().cpu()):
                    raise differs(part, name)
    return sums


def read_into(checkpoint: Path, name: str, tensors: Tensors) -> None:
    """Fill these tensors, each of which may be rows of a whole one, from the file `name` of a checkpoint or its shards.

    The checkpoint must have been verified, and have tensors of these names and shapes. All processes must call this
    together. Each reads only the rows that it keeps.
    """
    from torch.distributed.checkpoint.filesystem import FileSystem
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    files = [str(checkpoint / file) for file in files_of(checkpoint, name)]

    class Files(FileSystem):
        def ls(self, path: Any) -> list[str]:  # there are other files in the folder
            return files

    reader = HuggingFaceStorageReader(str(checkpoint))
    reader.fs = Files()
    _in_all(lambda: load(dict(tensors), storage_reader=reader))


def _in_all(do: Callable[[], Result]) -> Result:
    """Call a function of `torch.distributed.checkpoint`; raise the error of the first process in which it fails."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        return do()
    except CheckpointException as error:
        failures: Sequence[Any] = [found for _, (found, _) in sorted(error.failures.items())]
        raise (failures[0] if failures else error) from None
