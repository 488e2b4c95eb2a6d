"""The one exception that users see as a line, not as a traceback; and others in a line."""


class UserError(Exception):
    """A mistake that the user can mend: the message says what is wrong, where, and what to do.

    The command line prints it as one line and exits with status 2. Programmers' mistakes raise
    ordinary exceptions and keep their traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    return str(error).splitlines()[0] if str(error).strip() else type(error).__name__


def printable(text: str) -> str:
    """A text in which control characters, which a terminal would obey, are written as escapes; a tab stays."""
    return "".join(c if c.isprintable() or c in "\t" else c.encode("unicode_escape").decode() for c in text)
