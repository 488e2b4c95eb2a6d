"""How the program `diffcore` ends: its exit status, and, as one of several processes, without taking Python down."""

import tomllib
from pathlib import Path

import pytest

from diffcore import cli

ROOT = Path(__file__).parents[2]

BUSY = """
import atexit, ctypes, socket, sys, threading, time
from datetime import timedelta
from torch.distributed import TCPStore
from diffcore import cli

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(1)  # the thread below comes back while modules are taken down

def wait():
    store.wait(["nothing"], timedelta(seconds=0.3))

def main():
    print("done")
    if sys.argv[1] == "raise":
        raise RuntimeError("trouble")
    if sys.argv[1] == "text":
        raise SystemExit("one line")
    return int(sys.argv[1])

store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
sys.modules["slow"], cli.main = Slow(), main
threading.Thread(target=wait, daemon=True).start()
try:
    cli.program()
except SystemExit as ended:
    status = ended.code if isinstance(ended.code, int) else 1
except RuntimeError:
    status = 1
# What Python does at the end of a program that is no fork.
atexit.register(print, "exit handler")
ctypes.PyDLL(None).Py_Exit(status)
"""
"""A program whose command leaves a thread of PyTorch that needs the interpreter after it has begun to be taken down."""


@pytest.mark.parametrize(("command", "status"), [("0", 0), ("3", 3), ("raise", 1), ("text", 1)])
def test_one_of_several_processes_ends_with_its_status_though_a_thread_still_runs(processes, command, status):
    done = processes(BUSY, [command], WORLD_SIZE="2")
    assert (done.returncode, done.stdout) == (status, "done\nexit handler\n"), done.stderr
    assert "terminate called" not in done.stderr


def test_without_this_such_a_thread_aborts_the_process(processes):
    """A process alone, which has no such threads, ends as Python does, so that the test above means something."""
    assert "terminate called" in processes(BUSY, ["0"], WORLD_SIZE="1").stderr


def test_the_exit_status_is_that_of_the_command(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("sys.argv", ["diffcore", "nothing"])
    with pytest.raises(SystemExit) as ended:
        cli.program()
    assert ended.value.code == 2


def test_the_command_that_is_installed_is_the_program():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"diffcore": "diffcore.cli:program"}
