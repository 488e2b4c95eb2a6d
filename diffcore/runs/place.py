"""Where samples are written: a folder or a file that holds samples of one recipe and nothing else.

One command at a time writes there. Samples of another recipe are refused, or replaced if the caller says so.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from filelock import Timeout

from diffcore.errors import UserError
from diffcore.runs.drawing import Drawing
from diffcore.runs.guides import recipe_words
from diffcore.runs.kept_states import kept_files
from diffcore.runs.lock import acquire
from diffcore.runs.samples import unused
from diffcore.system.files import read_json, write_json


@dataclass(frozen=True)
class Place:
    """Where samples are written: the folder or the single file `out`, and the files beside it while they are drawn."""

    out: Path
    single: bool

    @property
    def parts(self) -> Path:
        """The folder of what is only needed until all samples are drawn."""
        return self.out.parent / f".{self.out.name}.drawing" if self.single else self.out / ".drawing"

    @property
    def recipe(self) -> Path:
        """The file with the recipe of the samples."""
        return (self.parts if self.single else self.out) / "recipe.json"


def search_place(place: Place) -> Path:
    """The folder of the search whose results are in the place, beside it: `best.search` for `best.sdf` and `best`."""
    return place.out.with_name(f"{place.out.stem if place.single else place.out.name}.search")


def default_place(folder: Path, drawing: Drawing) -> Path:
    """The folder for these samples in `folder`: one that has samples of the same recipe, or the first unused one.

    An unused one is created, so that a call at the same time with another recipe gets another one.
    """
    name = f"seed-{drawing.seed}"
    for number in count(1):
        path = folder / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
        place = Place(path, single=False)
        if place.recipe.is_file() and not _differences(place, drawing.recipe):
            return path
    raise AssertionError


@contextlib.contextmanager
def claimed(place: Place, drawing: Drawing, replace: bool) -> Iterator[None]:
    """Claim the place for samples of this recipe; what was made is removed again if nothing is drawn.

    Raises `UserError` if the place contains anything else, or if another command is writing there.
    """
    folder = place.parts.parent
    _check_file(place, replace)
    new = [path for path in (place.parts, *place.parts.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    _check_content(place, drawing.recipe, replace)
    place.parts.mkdir(exist_ok=True)
    no_locks = f"the file system of {place.out} has no locks: make sure that no other command draws samples to it"
    try:
        lock = acquire(place.parts / "lock", no_locks)
    except Timeout:
        raise UserError(f"another command is drawing samples to {place.out}: choose another `out`") from None
    try:
        _check_again(place, drawing.recipe, replace)
        if replace and place.recipe.is_file() and _differences(place, drawing.recipe):
            _clear(place)
        for path in place.parts.iterdir():
            if path.is_dir():  # incomplete files of a process that was killed
                shutil.rmtree(path, ignore_errors=True)
        if not place.recipe.is_file():
            write_json(place.recipe, {"recipe": drawing.recipe, "complete": 0})
        yield
    except BaseException:
        if new and not _has_samples(place):
            place.recipe.unlink(missing_ok=True)
            shutil.rmtree(place.parts, ignore_errors=True)
            for path in new:
                with contextlib.suppress(OSError):
                    path.rmdir()
        raise
    finally:
        lock.release()


def require_free(place: Place, recipe: Mapping[str, Any], replace: bool) -> None:
    """Raise `UserError` if samples of this recipe could not be written to the place, before they are drawn."""
    _check_file(place, replace)
    if os.path.lexists(place.out if not place.single else place.parts):
        _check_content(place, recipe, replace)


def _check_file(place: Place, replace: bool) -> None:
    """Raise `UserError` if the single file of the place exists and may not be replaced."""
    if place.single and os.path.lexists(place.out) and not replace:
        raise UserError(f"{place.out} exists already: choose another `out`, such as {unused(place.out)}, or `replace`")


def _check_again(place: Place, recipe: Mapping[str, Any], replace: bool) -> None:
    """Check the place when it is locked, as another command may have written there since it was checked."""
    try:
        _check_file(place, replace)
        _check_content(place, recipe, replace)
    except UserError:
        if not kept_files(place.parts):
            shutil.rmtree(place.parts, ignore_errors=True)
        raise


def _check_content(place: Place, recipe: Mapping[str, Any], replace: bool) -> None:
    """Raise `UserError` if the place contains anything but samples of this recipe, or of any with `replace`."""
    another = f"choose another `out`, such as {unused(place.out)}"
    if place.recipe.is_file():
        if (differences := _differences(place, recipe)) and not replace:
            what = "an interrupted call has drawn other samples for it" if place.single else "it contains other samples"
            raise UserError(f"{place.out}: {what} ({differences}); {another}, or `replace` them")
    elif not place.single and any(path.name != place.parts.name for path in place.out.iterdir()):
        raise UserError(f"{place.out} exists already and is not a folder of samples of a known recipe: {another}")


def _differences(place: Place, recipe: Mapping[str, Any]) -> str:
    """How the recipe of the samples that are there differs from this one, in words; empty if it does not."""
    stored = read_record(place)["recipe"]
    names = [name for name in {**stored, **recipe} if stored.get(name) != recipe.get(name)]
    if names == ["checkpoint"]:  # the same weights under another name
        return ""

    def shown(values: Mapping[str, Any], name: str) -> str:
        guides = name == "guidance" and isinstance(values.get(name), list)
        return recipe_words(values[name]) if guides else _short(values.get(name))

    return "; ".join(f"{name} is {shown(recipe, name)}, there {shown(stored, name)}" for name in names[:3])


def _short(value: Any) -> str:
    if value is None or value == {}:
        return "not given"
    text = value if isinstance(value, str) else re.sub(r"[{}'\"]", "", str(value))
    return text if len(text) <= 30 else f"{text[:12]}…"


def read_record(place: Place) -> dict[str, Any]:
    """The recipe of the samples that are there, and how many of them a call has completed."""
    record = read_json(place.recipe)
    if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
        raise UserError(f"{place.recipe} does not describe samples; delete the folder, or choose another `out`")
    return record


_FILE = re.compile(r"\d{4,}[-.]")
"""How the names of files of samples begin."""


def _clear(place: Place) -> None:
    """Delete samples of another recipe, and nothing else."""
    for path in () if place.single else [*place.out.iterdir(), *place.out.glob("overview/grid.*")]:
        if (_FILE.match(path.name) or path.name.startswith("grid.")) and path.is_file():
            path.unlink()
    for path in kept_files(place.parts).values():
        path.unlink()
    place.recipe.unlink()


def _has_samples(place: Place) -> bool:
    if kept_files(place.parts):
        return True
    return not place.single and any(_FILE.match(path.name) for path in place.out.iterdir())
