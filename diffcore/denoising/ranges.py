"""Values and ranges as users write them: `9`, `7..9`, `7..` or `..9`."""

from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def read_range(text: str, read: Callable[[str], Value]) -> tuple[Value | None, Value | None]:
    """The two ends of a range, each converted by `read`: None for an open end, and twice the same for a single value.

    `read` should raise `ValueError` for a word that it cannot convert; its exceptions are not caught.
    """
    low, dots, high = text.partition("..")
    if not dots:
        value = read(low)
        return value, value
    return (read(low) if low.strip() else None), (read(high) if high.strip() else None)
