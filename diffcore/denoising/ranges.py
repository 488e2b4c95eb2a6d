"""Values and ranges as users write them: `9`, `7..9`, `7..` or `..9`."""

from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def read_range(text: str, read: Callable[[str], Value]) -> tuple[Value | None, Value | None]:
    """The two ends, each by `read`; None where one is left open, and the same twice for a single value.

    Raises what `read` does of a word that it cannot read: `ValueError`.
    """
    low, dots, high = text.partition("..")
    if not dots:
        value = read(low)
        return value, value
    return (read(low) if low.strip() else None), (read(high) if high.strip() else None)
