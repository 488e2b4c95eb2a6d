"""What became of the files and records that a data set was read from.

A loader of a user's files collects in an `Account` what it changes and what it passes over. The `Ledger` that comes of
it is a part of `diffcore.plugins.data.Data`. Training begins with its summary, and the run folder holds all names.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffcore.errors import UserError, printable

Reasons = Mapping[str, tuple[str, ...]]
"""Names of files or records, by the reason why they are named."""


@dataclass(frozen=True)
class Ledger:
    """What a data set was made of.

    * `what`: what its files or records are, in the plural.
    * `place`: the file or folder that was read; empty for data that come with a plugin or are generated.
    * `found`: the number of files or records of this kind in the place.
    * `layout`: a sentence that says which folders are classes and parts; empty where there are no folders.
    * `about`: what the examples are like, in words, by aspect: `{"size": "32x32 pixels", "colour": "grey"}`.
    * `changed`: the names of what is used, but was changed, by what was done to it.
    * `noted`: the names of what is used as it is, but may be bad for the result, by what was found.
    * `passed_over`: the names of what is not used, by reason.
    """

    what: str = "examples"
    place: str = ""
    found: int = 0
    layout: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    changed: Reasons = field(default_factory=dict)
    noted: Reasons = field(default_factory=dict)
    passed_over: Reasons = field(default_factory=dict)


class Account:
    """Collects what a loader does with the files or records of a user; `ledger` is the result.

    * `what`, `place`, `found`, `layout`, `passed_over`: the fields of `Ledger` that are known before the files are
      read.
    """

    def __init__(
        self, what: str, place: str = "", found: int = 0, layout: str = "", passed_over: Reasons | None = None
    ) -> None:
        self.what, self.place, self.found, self.layout = what, place, found, layout
        self._changed: defaultdict[str, list[str]] = defaultdict(list)
        self._noted: defaultdict[str, list[str]] = defaultdict(list)
        self._unusable: defaultdict[str, list[str]] = defaultdict(list)
        self._passed_over: defaultdict[str, list[str]] = defaultdict(list)
        for why, names in (passed_over or {}).items():
            self._passed_over[why] += names

    def change(self, name: str | Path, how: str) -> None:
        """A file or record is used, but was changed: `how` completes "3 files are ...", such as "cropped"."""
        self._changed[how].append(self._named(name))

    def note(self, name: str | Path, what: str) -> None:
        """A file or record is used as it is, but the user should know something of it."""
        self._noted[what].append(self._named(name))

    def pass_over(self, name: str | Path, why: str) -> None:
        """A file or record is not used, and training goes on without it."""
        self._passed_over[why].append(self._named(name))

    def refuse(self, name: str | Path, why: str) -> None:
        """A file or record cannot be used. Training goes on without it only if the user asks for that."""
        self._unusable[why].append(self._named(name))

    def ledger(self, skip: bool, **about: str) -> Ledger:
        """The ledger. What cannot be used is passed over with `skip`; otherwise it is a `UserError` that names it."""
        if self._unusable and not skip:
            raise UserError(
                f"{self._count()} of the {self.found} {self.what} {self._where()} cannot be used: {self._refused()}; "
                "fix or remove them, or skip them with `data.skip_unreadable`"
            )
        passed_over = {**self._passed_over}
        for why, names in self._unusable.items():
            passed_over[why] = passed_over.get(why, []) + names
        changed, noted, passed = _frozen(self._changed), _frozen(self._noted), _frozen(passed_over)
        return Ledger(self.what, self.place, self.found, self.layout, about, changed, noted, passed)

    def nothing_left(self) -> UserError:
        """The error to raise if no file or record is left to train on."""
        reasons = [f"{self._refused()}"] if self._unusable else []
        reasons += [f"{len(names)} {why}: {named([*map(short, names)], 3)}" for why, names in self._passed_over.items()]
        return UserError(
            f"none of the {self.found} {self.what} {self._where()} can be used: {'; '.join(reasons)}; "
            "repair them, or set `data.root` to another folder"
        )

    def _count(self) -> int:
        return sum(map(len, self._unusable.values()))

    def _refused(self) -> str:
        return named(sorted(f"{short(name)} ({why})" for why, names in self._unusable.items() for name in names))

    def _where(self) -> str:
        return f"{'under' if Path(self.place).is_dir() else 'of'} {self.place}"

    def _named(self, name: str | Path) -> str:
        """The path relative to the place, if it is a path in it."""
        if isinstance(name, Path) and self.place and name.is_relative_to(self.place):
            name = name.relative_to(self.place)
        return shown(name)


def _frozen(reasons: Mapping[str, Sequence[str]]) -> Reasons:
    return {why: tuple(names) for why, names in reasons.items() if names}


def shown(name: str | Path) -> str:
    r"""The name of a file as text that can be printed and stored: bytes that are not UTF-8 become `\xe9`."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return printable(unicodedata.normalize("NFC", text))


def short(name: str, most: int = 120) -> str:
    """The beginning and the end of a long name, for lines that are read on a screen."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"


def named(names: Sequence[object], most: int = 10) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
