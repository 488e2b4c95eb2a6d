"""The one exception that users see as a line, not as a traceback."""


class UserError(Exception):
    """A mistake that the user can mend: the message says what is wrong, where, and what to do.

    The command line prints it as one line and exits with status 2. Programmers' mistakes raise
    ordinary exceptions and keep their traceback.
    """
