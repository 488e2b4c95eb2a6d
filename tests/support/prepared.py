"""Processes with another seed of hashes that have imported PyTorch, which takes longest of a start."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from diffcore.testing.checks import data

_SERVE = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
from tests.support.prepared import serve
serve(sys.stdin, sys.stdout)
"""


class PreparedProcesses:
    """`processes(code, arguments)` does what `diffcore.testing.checks.data.new_process` does, in less time.

    One interpreter with the other seed of hashes imports PyTorch and the checks, at the first call. Each call is a fork
    of it, which has imported no plugin. Within a call, `new_process` is a fork that has imported none either.

    `folder` is the working folder, and `environment` changes variables of the environment; None removes one.
    """

    def __init__(self):
        self._server = self._sent = self._received = None

    def __call__(self, code, arguments, folder=None, **environment):
        if self._sent is None:
            self._start()
        with tempfile.TemporaryDirectory() as place:
            said = {name: str(Path(place) / name) for name in ("out", "err")}
            asked = {"code": code, "arguments": arguments, "folder": str(folder or Path.cwd()), **said}
            changed = {**os.environ, "PYTHONHASHSEED": data.HASH_SEED, **environment}
            asked["environment"] = {name: value for name, value in changed.items() if value is not None}
            self._sent.write(json.dumps(asked) + "\n")
            self._sent.flush()
            status = int(self._received.readline())
            out, err = (Path(path).read_text() for path in said.values())
        return subprocess.CompletedProcess([code, *arguments], status, out, err)

    def _start(self):
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVE, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": data.HASH_SEED},
        )
        self._sent, self._received = self._server.stdin, self._server.stdout

    def fork(self):
        """Be served by a fork of this process."""
        (theirs, sent), (received, ours) = os.pipe(), os.pipe()
        if not os.fork():
            os.close(sent)
            os.close(received)
            serve(os.fdopen(theirs), os.fdopen(ours, "w"))
            os._exit(0)
        os.close(theirs)
        os.close(ours)
        self._sent, self._received = os.fdopen(sent, "w"), os.fdopen(received)

    def close(self):
        """End the interpreter."""
        if self._server is not None:
            self._sent.close()
            self._server.wait()


def serve(requests, answers):
    """Run each request in a fork, one after another, until there are no more."""
    for line in requests:
        child = os.fork()
        if not child:
            try:
                _run(json.loads(line))
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                status = 1
            else:
                status = 0
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def _run(asked):
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Objects of their own, since those of the server may be its connection.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    within = PreparedProcesses()
    within.fork()
    data.new_process = within
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["-c", *asked["arguments"]]
    exec(asked["code"], {"__name__": "__main__"})
