"""The samples drawn from a run, and writing them to files."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from diffcore.denoising.conditions import ClassCondition, Condition, Conditions, captions_of
from diffcore.errors import UserError
from diffcore.plugins.building import part_of
from diffcore.plugins.output import Captions
from diffcore.runs.model import Model
from diffcore.states.spaces import Mask
from diffcore.states.state import State

COLUMNS = 10
"""Number of samples in a row of the overview."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a run. Sample i of a seed is the same in every batch and on all machines of the same kind.

    * `state`: the encoded samples, `[n, ...]`, in the space of the diffusion.
    * `conditions`: the requested conditions, by name, one value per sample.
    * `mask`: the elements of each sample that exist, `[n, N]`; None if all do.
    * `decoded`: the samples in the form of their kind of data, as decoded by its codec.
    * `captions`: the requested conditions in words.

    If several processes draw together, the first one has all samples and the others have none.
    """

    state: State
    conditions: Conditions
    mask: Mask
    model: Model
    known: tuple[Condition, ...]
    """The conditions that `conditions` has values of."""

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
        """The requested conditions of each sample in words, by name of the condition."""
        return captions_of(self.known, self.conditions, len(self))

    def save(self, out: str | os.PathLike[str]) -> Path:
        """Write the samples to files, and return the path of the file that shows all of them.

        `out` is a folder, for one file per sample and an overview, or one file with an extension that is supported for
        the kind of data. Raises `UserError` for other extensions.
        """
        path = Path(out)
        single = is_single_file(path, self.model)
        if not len(self):
            return path
        (path.parent if single else path).mkdir(parents=True, exist_ok=True)
        writer = part_of(self.model.modality, "writer", self.model.codec)
        columns = min(COLUMNS, len(self))
        if single:
            writer.together(self.decoded, path, columns, self.captions)
            return path
        writer.each(self.decoded, path, _names(self.captions, self.known), self.captions)
        overview = path / f"grid{writer.endings[0]}"
        writer.together(self.decoded, overview, columns, self.captions)
        return overview

    def summary(self) -> list[str]:
        """Lines of text that compare the requested with the measured values; empty if they cannot be measured."""
        measure = getattr(part_of(self.model.modality, "writer", self.model.codec), "summary", None)
        return list(measure(self.decoded, self.captions)) if measure is not None and len(self) else []


def is_single_file(path: Path, model: Model) -> bool:
    """Whether samples are written to `path` as one file. Raises `UserError` if its extension is not supported."""
    endings: Sequence[str] = part_of(model.modality, "writer", model.codec).endings
    single = path.suffix.lower() in endings
    if (path.suffix or path.is_file()) and not single and not path.is_dir():
        raise UserError(f"{path}: {model.modality.name} writes {', '.join(endings)}, or several files to a folder")
    return single


def unused(path: Path) -> Path:
    """`path` if it does not exist, otherwise the first of `path-2`, `path-3`, … that does not."""
    number, candidate = 1, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


_LONGEST_WORD = 60
"""Bytes of one requested condition in the name of a file, at most; file systems allow names of 255 bytes."""
_LONGEST_NAME = 160
"""Bytes of all conditions in the name of a file, at most."""


def _names(captions: Captions, known: Sequence[Condition] = ()) -> list[str]:
    """File names from the number and the requested conditions of each sample: `0007-cat`, `0007-logp=2.5-tpsa=40`.

    Classes are known by their value, numbers only together with the name of the condition. Characters that are not
    letters, digits or one of `_.+=-` become `_`, and long names are cut. Classes that would look the same are told
    apart by a digest, `living_room~1f0c2a`.
    """
    classes = {each.name: _words(each.classes) for each in known if isinstance(each, ClassCondition)}
    numbers = {each.name for each in known} - classes.keys()

    def word(name: str, value: str) -> str:
        text = classes.get(name, {}).get(value) or _word(value)
        key = _cut(re.sub(r"[^\w.+-]+", "_", name), _LONGEST_WORD - len(text.encode()) - 1)
        return "-" + _cut(f"{key}={text}" if name in numbers else text, _LONGEST_WORD)

    return [
        f"{index:04d}{_cut(''.join(word(*item) for item in caption.items()), _LONGEST_NAME)}"
        for index, caption in enumerate(captions)
    ]


def _word(value: str) -> str:
    """A value as a part of the name of a file."""
    return _cut(re.sub(r"[^\w.+=-]+", "_", value), _LONGEST_WORD)


def _words(values: Sequence[str]) -> dict[str, str]:
    """A part of the name of a file for each value, all of them different, also where upper case is lower case."""
    plain = {value: _word(value) for value in values}
    seen = Counter(word.casefold() for word in plain.values())

    def different(value: str, word: str) -> str:
        if seen[word.casefold()] == 1 or value == word.casefold():
            return word
        digest = sha256(value.encode(errors="surrogatepass")).hexdigest()[:6]
        return f"{_cut(word, _LONGEST_WORD - 7)}~{digest}"

    return {value: different(value, word) for value, word in plain.items()}


def _cut(text: str, most: int) -> str:
    """The beginning of a text, of at most `most` bytes of UTF-8."""
    return text.encode()[: max(most, 0)].decode(errors="ignore")
