"""HTML fragments in files of a package, with places for values."""

import re
from collections.abc import Mapping
from importlib.resources import files

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def fragment(package: str, name: str, values: Mapping[str, object]) -> str:
    """The text of the file `name` of a package, with each `{{value}}` replaced by the value of that name.

    Values are put in as they are: escape what may contain markup. Raises `KeyError` for a value that is missing.
    """
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: str(values[place[1]]), text)
