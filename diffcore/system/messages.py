"""Standard error as a stream for messages, which never decides whether work goes on."""

import contextlib
import io
import os
import sys


class Messages(io.TextIOBase):
    """Writes to what is standard error when this object is made, and ignores failures.

    The reader of a pipe may have ended, the disk of a log file may be full, and a terminal may have been closed. What
    is written then is lost, and nothing else.
    """

    def __init__(self) -> None:
        self._stream = sys.stderr  # a progress bar replaces it while it is shown, so that lines appear above the bar

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # ValueError: closed; AttributeError: None
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of standard error, by which the progress bar chooses its characters."""
        return getattr(self._stream, "encoding", None) or "utf-8"


def discard_unwritable() -> None:
    """Discard what standard output and standard error cannot write.

    Python writes what is left when it ends; if that fails, the exit status becomes 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (ValueError, AttributeError):
            pass
