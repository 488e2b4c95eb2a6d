"""Lines of commands on the screen; standard output is for results."""

import logging

logger = logging.getLogger("diffcore.cli")


def say(text: str) -> None:
    """A line for people, on standard error, where the command line shows the log."""
    logger.info(text)
