"""What the page says of mistakes."""

import re
import tempfile

from diffcore.errors import UserError, printable, shortened

FAILED = "this failed because of an error in the program; the terminal shows its traceback"
"""What visitors learn of errors that are not theirs."""
PREFIX = "diffcore-demo-"
"""How the names of temporary folders of the page begin."""
_PLACE = re.compile(rf"{re.escape(tempfile.gettempdir())}/{PREFIX}[^\s:'\"]*")


def told(error: UserError) -> str:
    """A message for visitors, in one line: without the marks of arguments, and the places of files on the server."""
    return printable(shortened(_PLACE.sub("the file", str(error)).replace("`", ""), 1000))
