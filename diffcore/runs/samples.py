"""Samples that were drawn from a run, and their files."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffcore.denoising.conditions import Condition, Conditions, captions_of
from diffcore.errors import UserError
from diffcore.plugins.output import Captions
from diffcore.runs.model import Model
from diffcore.states.spaces import Mask
from diffcore.states.state import State

COLUMNS = 10
"""Samples in a row of the overview."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a run: sample i of a seed is the same in every batch and on every machine of one kind.

    * `state`: the states that were drawn, `[n, ...]`, as the diffusion has them.
    * `conditions`: what each was asked to be, `[n]` values by name.
    * `mask`: which elements of each exist, `[n, N]`; None where all do.
    * `decoded`: the samples in the form of their kind of data, as its codec decodes them.
    * `captions`: what each was asked to be, in words.

    Where several processes draw together, the first has all samples and the others have none.
    """

    state: State
    conditions: Conditions
    mask: Mask
    model: Model
    known: tuple[Condition, ...]
    """The conditions that `conditions` holds values of."""

    def __repr__(self) -> str:
        return f"Samples({len(self)} of {self.model.modality.name})"

    def __len__(self) -> int:
        return int(self.state.shape[0])

    @cached_property
    def decoded(self) -> Any:
        """The samples in the form of their kind of data."""
        return self.model.codec.decode(self.state, self.mask)

    @cached_property
    def captions(self) -> Captions:
        """What each sample was asked to be, in words, by name of condition."""
        return captions_of(self.known, self.conditions, len(self))

    def save(self, out: str | os.PathLike[str]) -> Path:
        """Write the samples to files; returns the file that shows all of them together.

        `out` is a folder, which gets a file for each sample and an overview, or a file whose ending the kind of data
        writes. Raises `UserError` for an ending that it does not write.
        """
        path = Path(out)
        single = is_single_file(path, self.model)
        if not len(self):
            return path
        (path.parent if single else path).mkdir(parents=True, exist_ok=True)
        writer = self.model.modality.writer(self.model.codec)
        columns = min(COLUMNS, len(self))
        if single:
            writer.together(self.decoded, path, columns, self.captions)
            return path
        writer.each(self.decoded, path, _names(self.captions), self.captions)
        overview = path / f"grid{writer.endings[0]}"
        writer.together(self.decoded, overview, columns, self.captions)
        return overview

    def summary(self) -> list[str]:
        """What was asked for and what the samples turned out to be, in lines; empty where that cannot be measured."""
        measure = getattr(self.model.modality.writer(self.model.codec), "summary", None)
        return list(measure(self.decoded, self.captions)) if measure is not None and len(self) else []


def is_single_file(path: Path, model: Model) -> bool:
    """Whether samples are written to `path` as one file; raises `UserError` for an ending that is not written."""
    endings: Sequence[str] = model.modality.writer(model.codec).endings
    single = path.suffix.lower() in endings
    if (path.suffix or path.is_file()) and not single and not path.is_dir():
        raise UserError(f"{path}: {model.modality.name} writes {', '.join(endings)}; or give a folder")
    return single


def unused(path: Path) -> Path:
    """`path`, or `path-2`, `path-3`, … where that exists."""
    number, candidate = 1, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _names(captions: Captions) -> list[str]:
    """File names: the number of the sample and what it was asked to be."""

    def words(values: Iterable[str]) -> str:
        return "".join(f"-{re.sub(r'[^A-Za-z0-9_.+-]+', '_', value)}" for value in values)

    return [f"{index:04d}{words(asked.values())}" for index, asked in enumerate(captions)]
