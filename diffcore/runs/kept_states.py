"""The states of samples, kept in files until the file that shows all of them is written."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins.data import Encoded, joined
from diffcore.plugins.output import Captions
from diffcore.runs.coding import decode
from diffcore.runs.drawing import Drawing
from diffcore.states.state import fields, from_fields
from diffcore.system.files import read_regular, write_atomically
from diffcore.system.tensor_file import content_of, tensors_in


def keep(folder: Path, start: int, encoded: Encoded, count: int) -> None:
    """Keep the first `count` of a batch of states in a file; `start` is the number of the first sample."""
    write_states(kept_file(folder, start, count), encoded, count)


def write_states(path: Path, encoded: Encoded, count: int) -> None:
    """Write the first `count` of a batch of states to a file, which `read_kept` reads."""
    tensors = {f"state {name}": field[:count] for name, field in fields(encoded.state).items()}
    if encoded.mask is not None:
        tensors["mask"] = encoded.mask[:count]
    write_atomically(path, content_of(tensors))


def kept_file(folder: Path, start: int, count: int) -> Path:
    """The file of `count` states from the sample `start` on."""
    return folder / f"{start:08d}-{count}.safetensors"


def kept_files(folder: Path) -> dict[range, Path]:
    """The files of states that are kept, in the order of the samples."""
    found = {}
    for path in folder.glob("*.safetensors") if folder.is_dir() else ():
        if numbers := re.fullmatch(r"(\d+)-(\d+)\.safetensors", path.name):
            found[range(int(numbers[1]), int(numbers[1]) + int(numbers[2]))] = path
    return dict(sorted(found.items(), key=lambda item: item[0].start))


def kept_rows(folder: Path) -> set[int]:
    """The samples whose states are kept."""
    return {row for rows in kept_files(folder) for row in rows}


def read_kept(path: Path, count: int) -> Encoded:
    """The first `count` of the states in a file. Raises `UserError`, and deletes the file, if it is damaged."""
    try:
        tensors = tensors_in(read_regular(path, path.stat().st_size))
        kept = {name.removeprefix("state "): t[:count] for name, t in tensors.items() if name.startswith("state ")}
        state = from_fields(kept)
    except (ValueError, KeyError, StopIteration, UserError):
        path.unlink(missing_ok=True)
        raise UserError(f"{path} was damaged: repeat the command, which draws its samples again") from None
    mask = tensors.get("mask")
    return Encoded(state, {}, None if mask is None else mask[:count])


@dataclass(frozen=True, eq=False)
class KeptBatches:
    """Kept samples, decoded batch by batch, with their captions: what `Writer.stream` receives."""

    drawing: Drawing
    files: Mapping[range, Path]

    def __len__(self) -> int:
        return sum(map(len, self.files))

    def __iter__(self) -> Iterator[tuple[Any, Captions]]:
        for rows, path in self.files.items():
            encoded = read_kept(path, len(rows))
            yield decode(self.drawing.model, encoded.state, encoded.mask), self.drawing.captions(rows)


def first_samples(files: Mapping[range, Path], most: int) -> dict[range, Path]:
    """The files that hold the first `most` samples; the last one is read in part."""
    return {range(rows.start, min(rows.stop, most)): path for rows, path in files.items() if rows.start < most}


def joined_files(files: Mapping[range, Path]) -> Encoded:
    """The states in these files, as one batch."""
    return joined([read_kept(path, len(rows)) for rows, path in files.items()])
