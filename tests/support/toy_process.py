"""The toy in processes of their own, which can be made to die, or to wait, at a chosen moment.

Processes are forked, as each would else import everything for itself.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from diffcore import cli
from diffcore.runs import folder as runs
from diffcore.system import files
from diffcore.tasks import batch as batches
from tests.support.toy import ToyWriter


class Moments:
    """How often a process has come to each point, and what it does there: `die` and `wait` are like `renamed:2`.

    There it kills itself (`die`), sends itself another signal (`send`, a pair of a moment and a signal), or waits.
    """

    def __init__(self, die=None, wait=None, waiting=None, send=(None, 0)):
        self.seen, self.die, self.wait, self.waiting, self.send = {}, die, wait, waiting, send

    def next(self, point):
        return f"{point}:{self.seen.get(point, 0) + 1}"

    def reach(self, point):
        here = self.next(point)
        self.seen[point] = self.seen.get(point, 0) + 1
        if here == self.die:
            os.kill(os.getpid(), signal.SIGKILL)
        if here == self.send[0]:
            os.kill(os.getpid(), self.send[1])
        if here == self.wait:
            self.waiting.touch()
            time.sleep(600)


def start(*arguments, said=os.devnull, **moments):
    """Run a command of the toy in a new process, whose id is returned; what it says goes to the file `said`."""
    process = os.fork()
    if process:
        return process
    status = 99
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.stderr = Path(said).open("w", buffering=1)  # noqa: SIM115
        arrange(Moments(**moments))
        status = cli.main([str(argument) for argument in arguments])
    finally:
        os._exit(status)


def end(process):
    """Wait for a process: its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def arrange(moments):
    """Put the points into what writes and deletes."""
    reach = moments.reach
    replace, remove, fsync, append, step = Path.replace, shutil.rmtree, os.fsync, files.append_lines, batches.draw_batch

    def told_replace(self, target):
        step_folder = self.name.startswith(".step-") and self.name.endswith(".part")
        inside = self.parent.name.startswith(".step-")
        if inside:
            reach("file-before-rename")
        if step_folder:
            reach("rename")
        if not inside and Path(target).suffix == ".safetensors":
            reach("kept")
        if self.name.endswith(".part"):
            reach(f"write {Path(target).name}")
        done = replace(self, target)
        if inside:
            reach("file-after-rename")
        if step_folder:
            reach("renamed")
        if Path(target).name.endswith(".gone"):
            reach("deleting")
        return done

    def told_fsync(descriptor):
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if path.endswith(".part") and Path(path).parent.name.startswith(".step-"):
            if moments.next("file-half") == moments.die:
                os.truncate(path, os.fstat(descriptor).st_size // 2)
            reach("file-half")
        return fsync(descriptor)

    def told_remove(path, *arguments, **keywords):
        if Path(path).name.endswith(".gone") and Path(path).is_dir():
            next(Path(path).iterdir()).unlink()
            reach("half-deleted")
        return remove(path, *arguments, **keywords)

    def told_append(path, lines):
        lines = list(lines)
        if moments.next("metrics-half") == moments.die:
            with path.open("a") as file:
                file.write(lines[0][: len(lines[0]) // 2])
        reach("metrics-half")
        append(path, lines)
        reach("metrics")

    def told_step(*arguments):
        reach("step")
        return step(*arguments)

    each, together = ToyWriter.each, ToyWriter.together

    def told_each(self, samples, folder, names, captions=()):
        half = len(samples) // 2
        paths = each(self, samples[:half], folder, names[:half], captions)
        reach("each-half")
        paths += each(self, samples[half:], folder, names[half:], captions)
        reach("each")
        return paths

    def told_together(self, samples, path, columns, captions=()):
        path.write_text("half")
        reach("together-half")
        together(self, samples, path, columns, captions)
        reach("together")

    ToyWriter.each, ToyWriter.together = told_each, told_together
    Path.replace, shutil.rmtree, os.fsync = told_replace, told_remove, told_fsync
    runs.append_lines, batches.draw_batch = told_append, told_step
