"""The command line: words on the screen. What happens is called from here and lives elsewhere.

Nothing heavy is imported until a command needs it, so `diffcore --help` and `diffcore plugins` answer at once.
"""

import contextlib
import errno
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence

from diffcore.errors import UserError, as_flags, printable
from diffcore.plugins import registry
from diffcore.plugins.registry import CHOICE, metadata_version

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--no-plugins"]:
        os.environ[CHOICE] = ""  # also for the processes that this one starts
        registry.installed.cache_clear()
        arguments = arguments[1:]
    try:
        with _log_on_the_screen():
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                return _together(arguments)
            return _run(arguments)
    except UserError as error:
        print(printable(as_flags(f"diffcore: {error}")), file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _SURROUNDINGS:
            raise
        where = error.filename or "a file"
        print(f"diffcore: {where}: {error.strerror}. {_SURROUNDINGS[error.errno]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffcore: interrupted", file=sys.stderr)
        return INTERRUPTED


class _Line(logging.Handler):
    """Messages of diffcore and its plugins as lines on standard error: arguments as flags, no control characters."""

    def filter(self, record: logging.LogRecord) -> bool:
        return re.match(r"diffcore(\W|_|$)", record.name) is not None

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(as_flags(record.getMessage())), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _log_on_the_screen() -> Iterator[None]:
    """Show the messages that the library logs; of several processes, only those of the first."""
    root, own, handler = logging.getLogger(), logging.getLogger("diffcore"), _Line()
    before = own.level
    own.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.CRITICAL)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        own.setLevel(before)


_SURROUNDINGS = {
    errno.ENOSPC: "Free some space; earlier checkpoints are whole, and diffcore resume RUN goes on from the last.",
    errno.EIO: "The disk may fail; earlier checkpoints are whole, and diffcore resume RUN goes on from the last.",
    errno.EFBIG: "Free some space; earlier checkpoints are whole, and diffcore resume RUN goes on from the last.",
    errno.EDQUOT: "Free some space; earlier checkpoints are whole, and diffcore resume RUN goes on from the last.",
    errno.EACCES: "Check its permissions, or name another place.",
    errno.EPERM: "Check its permissions, or name another place.",
    errno.EROFS: "Name a place that you may write to with --out.",
    errno.ENOTDIR: "A part of that path is a file; name another.",
    errno.EEXIST: "Something is there already; name another place.",
    errno.EISDIR: "It is a folder; name a file.",
}
"""Errors of the operating system that a user can correct, and how."""


SHARED = frozenset({"train", "resume", "sample", "evaluate"})
"""Commands that several processes can do together."""


def _together(arguments: list[str]) -> int:
    """As one of the processes that torchrun started."""
    from diffcore.system.distributed import joined

    with joined():
        if arguments[:1] and arguments[0] not in SHARED:
            raise UserError(f"{arguments[0]} is for one process: start it without torchrun")
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(), end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"diffcore {metadata_version('diffcore')}")
        return 0
    name, commands = arguments[0], registry.installed().commands
    if name not in commands:
        from difflib import get_close_matches

        close = get_close_matches(name, commands, 1)
        hint = f"; perhaps you meant {close[0]}" if close else ""
        raise UserError(f"unknown command {name!r}{hint}; there are: {', '.join(commands)}")
    return commands[name].record.main(arguments[1:])


def _usage() -> str:
    commands = [provided.record for provided in registry.installed().commands.values()]
    width = max(len(command.name) for command in commands) + 2
    return (
        "usage: diffcore [--no-plugins] COMMAND ...\n\n"
        + "\n".join(f"  {command.name:{width}}{command.summary}" for command in commands)
        + "\n\n  diffcore COMMAND --help   options of a command\n  diffcore --version\n"
    )
