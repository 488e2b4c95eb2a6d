"""Data of a run that are at another place than when it was trained."""

from collections.abc import Mapping
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins.records import places
from diffcore.runs.settings import RunSettings, validate


def with_data_at(settings: RunSettings, at: Mapping[str, Any]) -> RunSettings:
    """The settings with other places of the data, by name of the option: `{"root": PATH}`.

    Raises `UserError` for an option of the data set that is not a place, because a run keeps the data that it was
    trained on.
    """
    if not at:
        return settings
    data: Any = settings.data  # type: ignore[attr-defined]
    known = places(type(data))
    for name in at:
        if name not in known:
            can = ", ".join(f"`data.{place}`" for place in known)
            offer = f"{can} can, if the data have moved" if can else f"the data set {data.name!r} has no place"
            raise UserError(f"`data.{name}` cannot change for a run that was trained; {offer}")
    changed = validate(type(data), {**data.model_dump(), **at}, "the place of the data")
    return settings.model_copy(update={"data": changed})
