"""Processes with another seed of hashes that have imported PyTorch, for `new_process` of the checks of data."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from diffcore.testing.checks.data import HASH_SEED

_SERVE = """
import json, os, sys, traceback
sys.path[:] = json.loads(sys.argv[1])
import diffcore.testing.checks.data

def run(asked):
    os.chdir(asked["folder"])
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["-c", *asked["arguments"]]
    try:
        exec(asked["code"], {"__name__": "__main__"})
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()

for line in sys.stdin:
    child = os.fork()
    if not child:
        os._exit(run(json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class PreparedProcesses:
    """`processes(code, arguments)` does what `diffcore.testing.checks.data.new_process` does, in less time.

    One interpreter with the other seed of hashes imports PyTorch and the checks, at the first call. Each call is a fork
    of it, which has imported no plugin.
    """

    def __init__(self):
        self._server = None

    def __call__(self, code, arguments):
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-c", _SERVE, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONHASHSEED": HASH_SEED},
            )
        with tempfile.TemporaryDirectory() as folder:
            said = {name: str(Path(folder) / name) for name in ("out", "err")}
            asked = {"code": code, "arguments": arguments, "folder": str(Path.cwd()), **said}
            asked["environment"] = {**os.environ, "PYTHONHASHSEED": HASH_SEED}
            self._server.stdin.write(json.dumps(asked) + "\n")
            self._server.stdin.flush()
            status = int(self._server.stdout.readline())
            out, err = (Path(path).read_text() for path in said.values())
        return subprocess.CompletedProcess([code, *arguments], status, out, err)

    def close(self):
        if self._server is not None:
            self._server.stdin.close()
            self._server.wait()
