"""The names of emoji in the tables of packages, found by the code points in the names of files.

| table | package | used |
|---|---|---|
| `en/data.json` | `emojibase-data` (npm) | `hexcode`, `label`, `tags`, `subgroup` |
| `meta/groups.json` | the same | the names of the numbers `subgroup` |
| `emoji.json` | `emoji-datasource-google` and others (npm) | `unified`, `name`, `short_names`, `subcategory` |
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcore.denoising.words import words_of
from diffcore.errors import UserError

_GROUPS = "meta/groups.json"
_NAMING = ("en/data.json", "emoji.json")
"""The first of these tables that knows an emoji names it."""
TABLES = (*_NAMING, _GROUPS)
"""The ends of the paths of tables."""

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
    """The names and tags in tables of packages, by code points. The kind of an emoji is its last tag.

    Raises `UserError` for tables that cannot be read.
    """
    found: dict[Codes, Named] = {}
    groups: Mapping[str, str] = next((_content(table).get("subgroups", {}) for table in _ending(tables, _GROUPS)), {})
    for end in _NAMING:
        for table in _ending(tables, end):
            for codes, named in _rows(table, groups):
                found.setdefault(codes, named)
    return found


def _ending(tables: Sequence[Path], end: str) -> Iterator[Path]:
    return (table for table in tables if f"/{table.as_posix()}".endswith(f"/{end}"))


def _content(table: Path) -> Any:
    try:
        return json.loads(table.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{table} is not JSON; replace it by that of the package, or remove it") from None
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror}") from None


def _rows(table: Path, groups: Mapping[str, str]) -> Iterator[tuple[Codes, Named]]:
    """The rows of a table with a name; none if it is an object, such as `versions/emoji.json` of emojibase-data."""
    rows = _content(table)
    if isinstance(rows, dict):
        return
    try:
        entries = [(row.get("hexcode") or row["unified"], _named(row, groups)) for row in rows]
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{table} is not a table of emoji: a list of objects with `hexcode`, `label` and `tags`, or with "
            "`unified`, `name` and `short_names`; replace it by that of the package, or remove it"
        ) from None
    for hexcode, named in entries:
        codes = codes_of(str(hexcode))
        if codes is not None and named is not None:
            yield codes, named


def _named(row: Mapping[str, Any], groups: Mapping[str, str]) -> Named | None:
    """What a row says of an emoji; None without a name."""
    known = "label" in row
    name = row["label"] if known else (row["name"] or "").lower()
    tags = row.get("tags", ()) if known else row["short_names"]
    kind = groups.get(str(row.get("subgroup"))) if known else row.get("subcategory")
    plain = tuple(re.sub("[_-]", " ", str(tag)) for tag in (*tags, kind) if tag)
    return Named((str(name),), plain) if name else None
