"""HTML fragments in files of a package, with places for values."""

from collections.abc import Mapping
from importlib.resources import files


def fragment(package: str, name: str, values: Mapping[str, object]) -> str:
    """The text of the file `name` of a package, with each `{{value}}` replaced by the value of that name.

    Values are put in as they are: escape what may contain markup.
    """
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"{{{{{key}}}}}", str(value))
    return text
