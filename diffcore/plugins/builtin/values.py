"""What options of several parts have in common."""

from typing import Annotated

from pydantic import Field

Positive = Annotated[float, Field(gt=0)]


def require_rising(low: float, high: float, names: str) -> None:
    """Raise `ValueError` unless `low < high`; `names` are those of the two options."""
    if not low < high:
        raise ValueError(f"{names}: the first, {low:g}, must be smaller than the second, {high:g}")
