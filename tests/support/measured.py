"""What a call takes of the machine, counted rather than timed, in a process of its own.

The peak of memory of a process only rises: what the test process has had before would hide what a call takes. So it is
called in a forked child, whose peak begins with what is there.
"""

import contextlib
import io
import json
import os
import resource
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 300
"""After so many seconds a child that waits for something is ended: it fails, and nobody waits for it."""


@dataclass(frozen=True)
class Taken:
    """What a call returned and wrote to stderr, by how much it raised the peak of memory, and the bytes it read."""

    returned: Any
    stderr: str
    memory: int
    read: int


def taken(call):
    """Call a function in a child; what it returns must be known to JSON."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            try:
                answer = _measured(call)
            except BaseException:
                answer = {"failure": traceback.format_exc()}
            with os.fdopen(writing, "w") as pipe:
                json.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert answer, f"the process ended with {status}"
    answer = json.loads(answer)
    assert "failure" not in answer, answer["failure"]
    return Taken(**answer)


def calls_of(call):
    """How many functions are called in a call, of Python and of C: the work that is not done by whole arrays."""
    count = 0

    def see(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


def _measured(call):
    said = io.StringIO()
    memory, read = _peak(), _read()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        returned = call()
    return {"returned": returned, "stderr": said.getvalue(), "memory": _peak() - memory, "read": _read() - read}


def _peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _read():
    """Bytes that went through `read`, from files that exist and from those that are made up as they are read."""
    return int(Path("/proc/self/io").read_text().split()[1])
