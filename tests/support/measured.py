"""The memory that a call allocates, the bytes that it reads, and the number of functions that it calls.

The peak memory of a process never falls, so earlier tests would hide what a call allocates. The call therefore runs in
a forked child process, whose peak starts at its current memory.
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
"""A child process is killed after this many seconds, so that a call that hangs fails."""


@dataclass(frozen=True)
class Usage:
    """What a call returned and wrote to stderr, the growth of the peak memory, and the bytes read, both in bytes."""

    returned: Any
    stderr: str
    memory: int
    read: int


def usage_of(call):
    """Call a function in a child process. Its return value must be JSON."""
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
    return Usage(**answer)


def count_calls(call):
    """The number of calls of Python and C functions, which is large where arrays are processed element by element."""
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
    """Bytes that system calls have read, also from sparse files and devices."""
    return int(Path("/proc/self/io").read_text().split()[1])
