r"""Captions of a user's folder of files, in the forms that people have.

| form | content |
|---|---|
| `metadata.jsonl`, `metadata.csv` | `file_name`, relative to the folder of this file, and `text` (Hugging Face) |
| `captions.tsv` | a line for each caption: the name of the file, a tab, the text |
| `NAME.txt` beside `NAME.png` | a caption in each line (trainers of LoRA) |

A file may have several captions, also from several of these. Training draws one of them at random. For data sets that
use them, JSON may also have `tags`, a list of words, and `subcategory` or `category`, which counts as the last tag.
"""

import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from diffcore.denoising.text import padded
from diffcore.errors import UserError, printable
from diffcore.plugins.ledger import Account
from diffcore.system.files import utf8_lines

if TYPE_CHECKING:
    from tensordict import TensorDict

TABLES = ("metadata.jsonl", "metadata.csv", "captions.tsv")
"""Names of files with the captions of all files of a folder."""

MOST_CAPTIONS = 16
"""The largest number of captions of a file that are used."""
MOST_BYTES = 256 * 2**20
"""The largest file of captions that is read."""
LONGEST = 10_000
"""The largest number of characters of a caption."""


@dataclass(frozen=True)
class FileCaptions:
    """The captions and the tags of the files of a folder; files without any may be left out."""

    by_file: Mapping[Path, tuple[str, ...]] = field(default_factory=dict)
    tags: Mapping[Path, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """All captions, each once: `Data.texts`."""
        return tuple(dict.fromkeys(text for texts in self.by_file.values() for text in texts))

    def added(self, examples: "TensorDict", files: Sequence[Path]) -> "TensorDict":
        """Examples that were read of `files`, with the column `captions`; unchanged if there are no captions."""
        if not self.texts:
            return examples
        number = {text: index for index, text in enumerate(self.texts)}
        rows = [[number[text] for text in self.by_file.get(path, ())] for path in files]
        examples["captions"] = padded(rows, max(map(len, self.by_file.values())), -1)
        return examples


NO_CAPTIONS = FileCaptions()
"""No file has a caption."""


def is_table(path: str) -> bool:
    """Whether a file has the captions of all files of its folder, as its name says."""
    return PurePath(path).name in TABLES


def is_of_captions(path: str, stems: Collection[str]) -> bool:
    """Whether a file that is not one of the data holds captions.

    `stems` are the paths of the files of the data without their endings.
    """
    place = PurePath(path)
    return is_table(path) or (place.suffix.lower() == ".txt" and str(place.with_suffix("")) in stems)


def read_captions(
    sources: Sequence[Path], files: Sequence[Path], account: Account, unused: Sequence[Path] = ()
) -> FileCaptions:
    """The captions of `files` in the files `sources`, each caption of a file once.

    The account gets what is missing, empty, repeated, without a file or unreadable. Raises `UserError` for a table that
    is not valid, or that names neither one of the files nor one of `unused`, files that are there but are not read.
    """
    found: defaultdict[Path, list[str]] = defaultdict(list)
    tags: dict[Path, list[str]] = {}
    known: dict[str, Path | None] = {_normal(path): None for path in unused}
    known |= {_normal(path): path for path in files}
    stems: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in files:
        stems[path.with_suffix("")].append(path)
    for source in sorted(sources, key=lambda path: (path.name not in TABLES, path)):
        if source.name in TABLES:
            _read_table(source, known, found, tags, account)
        elif texts := _read_lines(source, account):
            for path in stems[source.with_suffix("")]:
                found[path] += texts
    kept = {path: captions for path, texts in found.items() if (captions := cleaned(path, texts, account))}
    if kept:
        for path in files:
            if path not in kept:
                account.note(path, "without a caption")
    return FileCaptions(kept, {path: cleaned(path, words, account) for path, words in tags.items()})


def _normal(path: Path) -> str:
    return unicodedata.normalize("NFC", os.path.normpath(path))


def _read_table(
    source: Path,
    known: Mapping[str, Path | None],
    found: defaultdict[Path, list[str]],
    tags: dict[Path, list[str]],
    account: Account,
) -> None:
    rows = {".jsonl": _of_jsonl, ".csv": _of_csv, ".tsv": _of_tsv}[source.suffix](source, _lines(source))
    if rows is None:
        account.pass_over(source, "without file_name and text, so without captions")
        return
    named = 0
    for name, captions, words in rows:
        place = next((key for form in _forms(name) if (key := _normal(source.parent / form)) in known), None)
        if place is None:
            account.pass_over(
                source.parent / printable(name)[:200], f"named in {source.name}, but not there or not read"
            )
            continue
        named += 1
        if (path := known[place]) is None:  # the account already says why this file is not used
            continue
        if not any(caption.strip() for caption in captions):
            account.note(path, f"with an empty caption in {source.name}")
        found[path] += captions
        if words:
            tags[path] = words
    if not named:
        first = f": its first name is {printable(rows[0][0])[:100]!r}" if rows else ""
        raise UserError(
            f"{source} names none of the {account.what} in its folder{first}; names are relative to this folder, "
            "with the ending of the file"
        )


def _forms(name: str) -> tuple[str, ...]:
    """The name of a file as it is written, and as it is if it was written by another system or with spaces around."""
    return name, name.strip().replace("\\", "/")


def _content(source: Path) -> bytes:
    """The content of a file of captions. Raises `UserError` if it is too large."""
    with source.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"{source} has more than {MOST_BYTES:,} bytes; captions in larger files are not read")
    return content


def _lines(source: Path) -> list[str]:
    """The lines of a file. Raises `UserError` if it is too large or not UTF-8."""
    return utf8_lines(_content(source), str(source))


Row = tuple[str, list[str], list[str]]
"""The name of a file, its captions and its tags."""


def _of_jsonl(source: Path, lines: Sequence[str]) -> list[Row] | None:
    """The rows of a file with an object in each line; None if the objects are about something else than captions."""
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{source}, line {number}: this is not JSON; write one object in each line") from None
        if not rows and isinstance(row, dict) and not {"file_name", "text"} <= row.keys():
            return None
        name, text = (row.get(key) for key in ("file_name", "text")) if isinstance(row, dict) else (None, None)
        texts: list[Any] = ["" if each is None else each for each in (text if isinstance(text, list) else [text])]
        if not isinstance(name, str) or not all(isinstance(each, str) for each in texts):
            raise UserError(
                f'{source}, line {number}: write an object with "file_name" and "text", a text or a list of texts'
            )
        tags = row.get("tags") or []
        if not isinstance(tags, list) or not all(isinstance(each, str) for each in tags):
            raise UserError(f'{source}, line {number}: "tags" must be a list of texts')
        kind = row.get("subcategory") or row.get("category")
        rows.append((name, texts, [*tags, *([re.sub("[_-]", " ", kind)] if isinstance(kind, str) else [])]))
    return rows


def _of_csv(source: Path, lines: Sequence[str]) -> list[Row] | None:
    """The rows of a table; None if it has no columns for captions."""
    table = csv.DictReader(io.StringIO("\n".join(lines), newline=""), skipinitialspace=True, strict=True)
    try:
        columns = table.fieldnames or ()
        if not {"file_name", "text"} <= {*columns}:
            if any({"file_name", "text"} <= {*re.split(r"[;|\t]\s*", column)} for column in columns):
                raise UserError(f"{source}: separate file_name, text and other columns by commas")
            return None
        rows: list[Row] = []
        for row in table:
            if row["file_name"] is None:
                raise UserError(f"{source}, line {table.line_num}: this row has no file_name")
            rows.append((row["file_name"], [row["text"] or ""], []))
        return rows
    except csv.Error as error:
        why: object = error
        if "end of data" in str(error):
            why = "a quotation mark is not closed"
        elif "expected after" in str(error):
            why = "a quotation mark within a text must be written twice"
        raise UserError(f"{source}, line {table.line_num + 1}: {why}") from None


def _of_tsv(source: Path, lines: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab:
            raise UserError(f"{source}, line {number}: write the name of a file, a tab, and its caption")
        if number > 1 or (name, caption) not in (("file_name", "text"), ("file", "text"), ("file", "caption")):
            rows.append((name, caption.split("\t"), []))
    return rows


def _read_lines(source: Path, account: Account) -> list[str]:
    """The lines of a file of captions; none if it cannot be read, which the account gets."""
    try:
        lines = [line for line in _lines(source) if line.strip()]
    except UserError as error:
        account.refuse(source, "captions that cannot be read: " + str(error).rpartition(": ")[2].partition(";")[0])
        return []
    except OSError as error:
        account.refuse(source, f"captions that cannot be read: {error.strerror}")
        return []
    if not lines:
        account.note(source, "empty files of captions")
    return lines


def cleaned(path: Path | str, texts: Iterable[str], account: Account) -> tuple[str, ...]:
    """The captions of a file or record: on one line each, without control characters, each once, and not too many."""
    kept: list[str] = []
    for text in texts:
        plain = " ".join("".join(" " if _is_control(char) else char for char in text).split())
        if any(_is_control(char) and char not in "\n\r\t" for char in text):
            account.change(path, "without control characters that its caption had")
        if len(plain) > LONGEST:
            account.change(path, f"with only the first {LONGEST:,} characters of a caption")
        if plain := plain[:LONGEST].strip():
            kept.append(plain)
    counts = Counter(kept)
    if len(counts) < len(kept):
        account.note(path, "with the same caption several times, which is used once")
    if len(counts) > MOST_CAPTIONS:
        account.note(path, f"with more than {MOST_CAPTIONS} captions, of which the first are used")
    return tuple(counts)[:MOST_CAPTIONS]


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in "\u200d"
