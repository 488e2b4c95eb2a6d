"""The exception for mistakes of users, and functions that prepare messages for the screen.

Messages name arguments in backticks, as in the library: `train.steps`. The command line prints them as flags.
"""

import os
import re
import shlex
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can correct. The message states what is wrong, where, and what to do.

    The command line prints it as one line, with arguments as flags, and exits with status 2. Programming errors raise
    ordinary exceptions and keep their traceback.
    """


RAISED_BY_PLUGINS = (Exception, SystemExit, GeneratorExit)
"""What code of other packages can raise that must not end work of ours: all but Ctrl-C."""

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)`")
_FLAGS = {"conditions": "condition", "guides": "guide", "metrics": "metric"}
"""Flags that are repeated for each of several values, by the name of the argument that takes all of them."""


def as_flags(message: str) -> str:
    """`message` with arguments in backticks replaced by flags: `train.batch_size` becomes --train.batch-size."""
    return _ARGUMENT.sub(lambda match: "--" + _FLAGS.get(match[1], match[1]).replace("_", "-"), message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'X'?)` for the known name that is most like `name`, whatever its case; empty if none is.

    Names of one or two characters must be equal but for their case: they are too short to be alike.
    """
    by_lower = {item.lower(): item for item in known}
    close = get_close_matches(name.lower(), by_lower, 1, 0.6 if len(name) > 2 else 1.0)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""


def quoted(path: str | os.PathLike[str]) -> str:
    """A path as a shell reads it, for commands in messages: quoted if it contains spaces or the like."""
    return shlex.quote(str(path))


def first_line(error: BaseException) -> str:
    """The first line of the message of an exception, or the name of its type if there is no message."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # the message is made by the code of the exception, which may be of another package
        lines = []
    return lines[0] if lines else type(error).__name__


def told(error: BaseException) -> str:
    """An exception in one line: what the system refuses with its place, a `UserError` as it is, others with their type.

    An `OSError` becomes `PLACE: reason`, as in `runs/1/report.html: No space left on device`.
    """
    if isinstance(error, OSError):
        places = ", ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        reason = error.strerror or first_line(error)
        return f"{places}: {reason}" if places else reason
    if isinstance(error, MemoryError):
        return "this machine has too little memory"
    line, kind = first_line(error), type(error).__name__
    return line if isinstance(error, UserError) or line == kind else f"{kind}: {line}"


def shortened(text: str, most: int = 4000) -> str:
    """`text` without its middle, if it has more than `most` characters, as when a name of a megabyte is in it."""
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def printable(text: str) -> str:
    """`text` with control characters, to which a terminal would react, replaced by escape sequences; tabs stay."""
    return "".join(c if c.isprintable() or c in "\t" else c.encode("unicode_escape").decode() for c in text)
