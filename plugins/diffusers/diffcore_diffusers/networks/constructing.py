"""Makes networks of diffusers and transformers, whose constructors check their options themselves."""

from collections.abc import Callable
from typing import Any, TypeVar

from diffcore.errors import UserError, first_line

Made = TypeVar("Made")

_REFUSALS = (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError, NotImplementedError)
"""What their constructors raise for options that do not fit; what memory cannot hold is refused elsewhere."""


def constructed(name: str, make: Callable[..., Made], **options: Any) -> Made:
    """`make(**options)` for the part of a run called `name`. Raises `UserError` if the options do not fit."""
    try:
        return make(**options)
    except _REFUSALS as error:
        raise UserError(f"{name} cannot be made with these options: {plain(error)}") from None


def plain(error: BaseException) -> str:
    """The first line of a message of another library, whose words in backticks are no arguments of ours."""
    return first_line(error).replace("`", "'")
