"""The command line: words on the screen. What happens is called from here and lives elsewhere.

Nothing heavy is imported until a command needs it, so `diffcore --help` and `diffcore plugins` answer at once.
"""

import atexit
import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from diffcore.cli.surroundings import reason_of
from diffcore.errors import UserError, as_flags, printable, shortened
from diffcore.plugins import registry
from diffcore.plugins.registry import CHOICE, metadata_version
from diffcore.system.messages import Messages, discard_unwritable

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def program() -> NoReturn:
    """Be the program `diffcore`: run the command of `sys.argv` and end this process with its exit status.

    Threads of PyTorch's process groups and stores may still run after the last message between processes. One that
    needs the interpreter while that is being taken down aborts the process, although all work is done. One of several
    processes therefore ends, after its exit handlers, without taking the interpreter down.
    """
    status = 1  # also of an exception that leaves this function, which Python reports before the exit handlers

    def end() -> NoReturn:
        logging.shutdown()  # its own exit handler is registered before this one, and so would come after it
        discard_unwritable()
        os._exit(status)

    if _are_several():
        atexit.register(end)  # handlers run in reverse order, so those of what is imported later come before it
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    sys.exit(status)


def _are_several() -> bool:
    """Whether torchrun started this process and others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--no-plugins"]:
        os.environ[CHOICE] = ""  # also for the processes that this one starts
        registry.installed.cache_clear()
        arguments = arguments[1:]
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack letters, and names of files may not be text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _log_on_the_screen():
            status = _together(arguments) if _are_several() else _run(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
    except UserError as error:
        _refuse(as_flags(str(error)))
        return 2
    except BrokenPipeError:  # whoever read the results has enough, as in `| head`
        return 1
    except KeyboardInterrupt:
        _refuse("interrupted")
        return INTERRUPTED
    except Exception as error:
        reason = reason_of(error)
        if reason is None:  # a mistake of a programmer, which keeps its traceback
            raise
        _refuse(reason)
        return 2
    finally:
        discard_unwritable()


def _refuse(reason: str) -> None:
    print(printable(shortened(f"diffcore: {reason}")), file=Messages(), flush=True)


class _Line(logging.Handler):
    """Messages of diffcore and its plugins as lines on standard error: arguments as flags, no control characters."""

    def filter(self, record: logging.LogRecord) -> bool:
        return re.match(r"diffcore(\W|_|$)", record.name) is not None

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(shortened(as_flags(record.getMessage()))), file=Messages(), flush=True)


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


SHARED = frozenset({"train", "distill", "resume", "sample", "evaluate"})
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
