"""The samples drawn from a run, and writing them to files."""

import contextlib
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from diffcore.denoising.conditions import ClassCondition, Condition, Conditions, captions_of
from diffcore.denoising.text import TextCondition
from diffcore.errors import UserError
from diffcore.plugins.building import part_of
from diffcore.plugins.data import Codec
from diffcore.plugins.output import Captions, Value
from diffcore.runs.choices import writing_of
from diffcore.runs.coding import decode
from diffcore.runs.model import Model
from diffcore.runs.scores import Functions, Scoring, functions_of
from diffcore.runs.tables import TableWriter, require_parquet
from diffcore.states.spaces import Mask
from diffcore.states.state import State

COLUMNS = 10
"""Number of samples in a row of the overview."""
MOST_SHOWN = 200
"""The overview of a folder shows at most so many samples, the first ones."""
MOST_TOGETHER = 1000
"""A single file that shows all samples at once, such as a picture, shows at most so many."""


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
    guide_captions: Mapping[str, str] = field(default_factory=dict)
    """The captions that guides give to all samples, by name of the condition, in place of those of its values."""

    def __repr__(self) -> str:
        return f"Samples({len(self)} of {self.model.modality.name})"

    def __len__(self) -> int:
        return int(self.state.shape[0])

    @property
    def codec(self) -> Codec:
        """The codec of the model."""
        return self.model.codec

    @cached_property
    def decoded(self) -> Any:
        """The samples in the form of their kind of data."""
        return decode(self.model, self.state, self.mask)

    @cached_property
    def captions(self) -> Captions:
        """The requested conditions of each sample in words, by name of the condition."""
        return [{**each, **self.guide_captions} for each in captions_of(self.known, self.conditions, len(self))]

    def save(self, out: str | os.PathLike[str], write: Mapping[str, Any] | None = None) -> Path:
        """Write the samples to files, and return the path of the file that shows all of them.

        `out` is a folder, for one file per sample and an overview of the first `MOST_SHOWN`, or one file with an
        extension that is supported for the kind of data. `write` are options of the files, which depend on the kind of
        data, such as `{"bits": 24}` for sounds. Files are written under another name and renamed, and replace
        files of the same name. Raises `UserError` for other extensions, for more than `MOST_TOGETHER` samples in a
        picture, and for a folder that contains other samples.
        """
        path = Path(out)
        options = writing_of(self.model.modality, write)
        writer = part_of(self.model.modality, "writer", self.model.codec, *filter(None, [options]))
        if self.model.modality.scorer is not None:
            scoring = Scoring(self.model)
            names = list(dict.fromkeys(name for caption in self.captions for name in caption))
            writer = TableWriter(writer, scoring, scoring.columns, names)
            require_parquet(path)
        single = is_single_file(path, self.model, writer)
        if not len(self):
            return path
        names = file_names(range(len(self)), self.captions, self.known)
        if single:
            require_few(writer, path, len(self))
        else:
            _require_no_others(path, names)
        folder = path.parent if single else path
        folder.mkdir(parents=True, exist_ok=True)
        if not single:
            write_each(writer, self.decoded, folder, names, self.captions, folder)
        overview = path if single else overview_of(path, writer)
        overview.parent.mkdir(exist_ok=True)
        with beside(folder) as parts:
            part = parts / overview.name
            if single and part.suffix.lower() in getattr(writer, "streams", ()):
                writer.stream([(self.decoded, self.captions)], part)
            else:
                shown = self.first(len(self) if single else MOST_SHOWN)
                write_overview(writer, shown.decoded, part, shown.captions)
            part.replace(overview)
        return overview

    def scores(self, names: Sequence[str] = (), properties: Functions = ()) -> dict[str, list[Value]]:
        """Values of each sample by name, by default those of the columns of a table.

        Args:
            names: Which values; the names are those of the kind of data, and those of `properties`.
            properties: Python functions of a sample: `"module:function"`, `"NAME=module:function"`, or by name.
        """
        scoring = Scoring(self.model, functions=functions_of(properties))
        return scoring(self.decoded, names or scoring.columns)

    def first(self, count: int) -> "Samples":
        """The first `count` of the samples."""
        return self if count >= len(self) else self.taken(range(count))

    def taken(self, rows: Sequence[int]) -> "Samples":
        """The samples with these numbers, counted from 0."""
        chosen = list(rows)
        conditions = {name: value[chosen] for name, value in self.conditions.items()}
        mask = None if self.mask is None else self.mask[chosen]
        return replace(self, state=self.state[chosen], conditions=conditions, mask=mask)

    def summary(self) -> list[str]:
        """Lines of text that compare the requested with the measured values; empty if they cannot be measured."""
        measure = getattr(part_of(self.model.modality, "writer", self.model.codec), "summary", None)
        return list(measure(self.decoded, self.captions)) if measure is not None and len(self) else []


def is_single_file(path: Path, model: Model, writer: Any) -> bool:
    """Whether samples are written to `path` as one file. Raises `UserError` if its extension is not supported."""
    endings: Sequence[str] = writer.endings
    single = path.suffix.lower() in endings
    if (path.suffix or path.is_file()) and not single and not path.is_dir():
        raise UserError(f"{path}: {model.modality.name} writes {', '.join(endings)}, or several files to a folder")
    return single


def require_few(writer: Any, path: Path, n: int) -> None:
    """Raise `UserError` if one file would show more samples than `MOST_TOGETHER` at once, as a picture does."""
    if n > MOST_TOGETHER and path.suffix.lower() not in (streams := getattr(writer, "streams", ())):
        others = f", or {', '.join(streams)} for any number" if streams else ""
        raise UserError(
            f"{path} can show at most {MOST_TOGETHER:,} samples, and {n:,} are asked for: give a folder{others}"
        )


def unused(path: Path) -> Path:
    """`path` if it does not exist, otherwise the first of `path-2`, `path-3`, … that does not; `a-2.png` for a file."""
    ending = path.suffix if path.is_file() else ""
    number, candidate = 1, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name.removesuffix(ending)}-{number}{ending}")
    return candidate


def write_each(writer: Any, samples: Any, folder: Path, names: Sequence[str], captions: Captions, parts: Path) -> None:
    """Write each sample to its own file in `folder`, first to a new folder in `parts`, then renamed.

    If a writer makes further files, they are renamed before the files of the samples.
    """
    with beside(parts) as part:
        made = writer.each(samples, part, names, captions)
        own = {Path(path).name for path in made}
        for path in sorted(part.iterdir(), key=lambda path: path.name in own):
            path.replace(folder / path.name)


def overview_of(folder: Path, writer: Any) -> Path:
    """The file that shows the first samples of a folder. It lies apart, so that the files in the folder are samples."""
    return folder / "overview" / f"grid{writer.endings[0]}"


def write_overview(writer: Any, samples: Any, path: Path, captions: Captions) -> None:
    """Write one file that shows all samples."""
    writer.together(samples, path, min(COLUMNS, max(1, len(captions))), captions)


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new folder in `folder` for files that are not complete; it is deleted at the end."""
    part = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=folder))
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _require_no_others(folder: Path, names: Sequence[str]) -> None:
    """Raise `UserError` if a folder contains samples that these would not replace, but be mixed with."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        number = re.match(r"\d{4,}(?=[-.])", path.name)
        if number and not path.name.startswith("".join(f"{name}." for name in names[int(number[0]) :][:1]) or "/"):
            raise UserError(f"{folder} contains other samples, such as {path.name}: choose another `out`")


_LONGEST_WORD = 60
"""Bytes of one requested condition in the name of a file, at most; file systems allow names of 255 bytes."""
_LONGEST_NAME = 160
"""Bytes of all conditions in the name of a file, at most."""


def file_names(rows: Sequence[int], captions: Captions, known: Sequence[Condition] = ()) -> list[str]:
    """File names from the numbers `rows` and the requested conditions of samples: `0007-cat`, `0007-logp=2.5-tpsa=40`.

    Classes and texts are known by their value, others only together with the name of the condition. Characters that are
    not letters, digits or one of `_.+=-` become `_`, and long names are cut. Classes that would look the same are told
    apart by a digest, `living_room~1f0c2a`.
    """
    classes = {each.name: _words(each.classes) for each in known if isinstance(each, ClassCondition)}
    plain = {each.name for each in known if isinstance(each, ClassCondition | TextCondition)}
    numbers = {each.name for each in known} - plain

    def word(name: str, value: str) -> str:
        text = classes.get(name, {}).get(value) or _word(value)
        key = _cut(re.sub(r"[^\w.+-]+", "_", name), _LONGEST_WORD - len(text.encode()) - 1)
        return "-" + _cut(f"{key}={text}" if name in numbers else text, _LONGEST_WORD)

    return [
        f"{index:04d}{_cut(''.join(word(*item) for item in caption.items()), _LONGEST_NAME)}"
        for index, caption in zip(rows, captions, strict=True)
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
