"""What the functions of `import diffcore` show while they work, unless their caller configures logging."""

import logging
import os


def show_messages() -> None:
    """Show the messages and the progress of diffcore on standard error, unless the program configures logging itself.

    A program does so by a handler of the root logger or of the logger `diffcore`, such as `logging.basicConfig()`
    makes, or by a level of the logger `diffcore`: with `logging.getLogger("diffcore").setLevel(logging.WARNING)` only
    warnings appear. Of several processes, the first shows messages.
    """
    logger = logging.getLogger("diffcore")
    if logger.level != logging.NOTSET or logger.hasHandlers() or os.environ.get("RANK", "0") != "0":
        return
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())
