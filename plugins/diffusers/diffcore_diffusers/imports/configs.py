"""Configurations of networks: every key must be one that is known, as any other could change what is computed."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffcore.errors import UserError
from diffcore.interop.weights import checked
from diffcore.plugins.records import Settings


def options_of(
    config: Mapping[str, Any],
    model: type[Settings],
    origin: str,
    defaults: Mapping[str, Any],
    only: Mapping[str, Collection[Any]],
    others: Collection[str] = (),
) -> dict[str, Any]:
    """The values of the fields of `model` in a configuration from the file `origin`, and those of `others`.

    * `defaults`: what the class of diffusers has where the configuration is silent, and the fields do not.
    * `only`: keys of which only these values can be read.
    * `others`: keys with a meaning that are not fields. None is a value of theirs and of fields without a default.

    Raises `UserError` for other keys, unless they begin with an underscore, and for other values.
    """
    given = {key: value for key, value in config.items() if value is not None}
    for key, able in only.items():
        if key in given and given[key] not in able:
            words = " or ".join(str(each) for each in able) or "null"
            raise UserError(f"{origin}: {key} is {str(given[key])[:80]}, which cannot be read; {words} can")
    known = {*model.model_fields, *only, *others}
    if strange := sorted(key for key in given if key not in known and not key.startswith("_")):
        raise UserError(f"{origin}: {strange[0][:80]!r} is not known")
    found = {**defaults, **given}
    return {key: value for key, value in found.items() if key in model.model_fields or key in others}


def made(model: type[Settings], values: Mapping[str, Any], origin: str, **more: Any) -> Any:
    """The options with these values and `more`; other keys are left out. Raises `UserError` for wrong ones."""
    own = {key: value for key, value in values.items() if key in model.model_fields}
    return checked(model, own | more, origin)


def sides_of(size: Any, origin: str) -> tuple[int, int]:
    """The height and the width that `sample_size` says. Raises `UserError` if it says none."""
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        raise UserError(f"{origin}: sample_size is {str(size)[:80]}; it must be the height and width of a picture")
    return sides


def class_in(index: Mapping[str, Any], part: str, folder: Path, library: str = "diffusers") -> str:
    """The class of a part of a pipeline, which must be one of the library's own. Raises `UserError` if it is not."""
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2 or entry[0] != library or not isinstance(entry[1], str):
        raise UserError(f"{folder / 'model_index.json'}: {part} must be a class of {library}, not {str(entry)[:80]}")
    return entry[1]


def require_class(index: Mapping[str, Any], part: str, folder: Path, *able: str, library: str = "diffusers") -> None:
    """Raise `UserError` unless the class of the part is one of those that are `able`."""
    if (found := class_in(index, part, folder, library)) not in able:
        raise UserError(f"{folder} has the {part} {found[:80]!r}; {' or '.join(able)} can be imported")
