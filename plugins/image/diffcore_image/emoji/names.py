"""The names of emoji in the tables of packages, found by the code points in the names of files.

| table | package | used |
|---|---|---|
| `en/data.json` | `emojibase-data` (npm) | `hexcode`, `label`, `tags` |
| `emoji.json` | `emoji-datasource-google`, `-twitter` and others (npm) | `unified`, `name`, `short_names`, `subcategory` |
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcore.denoising.words import words_of
from diffcore.errors import UserError

TABLES = ("en/data.json", "emoji.json")
"""The ends of the paths of tables; the first of them that knows an emoji names it."""

_TEXT_STYLE, _EMOJI_STYLE = 0xFE0E, 0xFE0F
"""Code points that ask for a style. Packages differ in where they write them, so they are ignored."""
_SKIN_TONES = range(0x1F3FB, 0x1F3FF + 1)
_CODES = re.compile(r"(?:emoji_)?u?([0-9a-f]{2,6}(?:[-_][0-9a-f]{2,6})*)", re.IGNORECASE)

Codes = tuple[int, ...]
"""The code points of an emoji, without those that ask for a style."""


@dataclass(frozen=True)
class Named:
    """What an emoji is called: its `names`, of which the first is the usual one, and `tags` about it."""

    names: tuple[str, ...]
    tags: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """The first name, with all tags that say something new."""
        return ", ".join((self.names[0], *self._new_tags()))

    @property
    def wordings(self) -> tuple[str, ...]:
        """Different texts for the same picture: the description, each name alone, and the first with half the tags."""
        tags = self._new_tags()
        halves = (", ".join((self.names[0], *tags[start::2])) for start in (0, 1))
        return tuple(dict.fromkeys((self.description, *self.names, *(halves if tags[1:] else ()))))

    def _new_tags(self) -> list[str]:
        """The tags with a word that neither the first name nor a tag before them has."""
        known = {*words_of(self.names[0])}
        kept = []
        for tag in self.tags:
            if new := {*words_of(tag)} - known:
                kept.append(tag)
                known |= new
        return kept


def codes_of(stem: str) -> Codes | None:
    """The code points in the name of a file without its ending, such as `1f469-200d-1f680` or `emoji_u1f600`."""
    match = _CODES.fullmatch(stem)
    if match is None:
        return None
    codes = (int(code, 16) for code in re.split("[-_]", match[1]))
    return tuple(code for code in codes if code not in (_TEXT_STYLE, _EMOJI_STYLE))


def has_skin_tone(codes: Codes) -> bool:
    """Whether an emoji is the variant of another one with a colour of skin."""
    return len(codes) > 1 and any(code in _SKIN_TONES for code in codes)


def read_names(tables: Sequence[Path]) -> Mapping[Codes, Named]:
    """The names and tags in tables of packages, by code points.

    Raises `UserError` for tables that cannot be read.
    """
    found: dict[Codes, Named] = {}
    for end in TABLES:
        for table in tables:
            if f"/{table.as_posix()}".endswith(f"/{end}"):
                for codes, named in _rows(table):
                    found.setdefault(codes, named)
    return found


def _rows(table: Path) -> Iterator[tuple[Codes, Named]]:
    """The rows of a table with a name; none if it is an object, such as `versions/emoji.json` of emojibase-data."""
    try:
        rows = json.loads(table.read_bytes())
        if isinstance(rows, dict):
            return
        entries = [(row.get("hexcode") or row["unified"], _named(row)) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{table} is not a table of emoji: a list of objects with `hexcode`, `label` and `tags`, or with `unified`, "
            "`name` and `short_names`; replace it by that of the package, or remove it"
        ) from None
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror}") from None
    for hexcode, named in entries:
        codes = codes_of(str(hexcode))
        if codes is not None and named is not None:
            yield codes, named


def _named(row: Mapping[str, Any]) -> Named | None:
    """What a row says of an emoji; None without a name."""
    if "label" in row:
        return Named((str(row["label"]),), tuple(map(str, row.get("tags", ()))))
    if not row["name"]:
        return None
    tags = (*row["short_names"], row.get("subcategory") or "")
    return Named((row["name"].lower(),), tuple(re.sub("[_-]", " ", tag) for tag in tags if tag))
