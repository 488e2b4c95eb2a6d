"""The exception that users see as one line, and what a line of text needs to be printed.

Messages name arguments in backticks, as the library has them: `train.steps`. The command line prints them as flags.
"""

import re


class UserError(Exception):
    """A mistake that the user can mend: the message says what is wrong, where, and what to do.

    The command line prints it as one line, with arguments as flags, and exits with status 2. Programmers' mistakes
    raise ordinary exceptions and keep their traceback.
    """


_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)`")
_FLAGS = {"conditions": "condition", "guides": "guide", "metrics": "metric"}
"""Flags that are given once for each of several values, by the argument that takes all of them."""


def as_flags(message: str) -> str:
    """A message in which arguments in backticks are written as flags: `train.batch_size` as --train.batch-size."""
    return _ARGUMENT.sub(lambda found: "--" + _FLAGS.get(found[1], found[1]).replace("_", "-"), message)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    return str(error).splitlines()[0] if str(error).strip() else type(error).__name__


def printable(text: str) -> str:
    """A text in which control characters, which a terminal would obey, are written as escapes; a tab stays."""
    return "".join(c if c.isprintable() or c in "\t" else c.encode("unicode_escape").decode() for c in text)
