"""What a command meets outside of diffcore: users without a name, terminals, pipes, errors of the system."""

import errno
import io
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from diffcore import cli
from diffcore.cli.surroundings import ADVICE, reason_of
from diffcore.errors import UserError, told
from diffcore.plugins.records import Place
from diffcore.runs.folder import RunFolder
from diffcore.runs.lock import locked
from tests.support.refusals import refused, the_line

SHORT = ("--train.steps", "4", "--train.log-every", "2", "--train.evaluate", "8", "--sample.steps", "2")

NAMELESS = """
import pwd, sys

def getpwuid(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = getpwuid
from diffcore import cli
from diffcore.plugins import registry
from diffcore.system.cache import cache_folder, read_entry, write_entry
from tests.support.toy import toy_registry
registry.installed = toy_registry
path, *train = sys.argv[1:]
statuses = [cli.main(["train", "--modality", "toy", "--out", path, *train]), cli.main(["plugins"])]
for words in (["resume", path, "--train.steps", "6"], ["evaluate", path, "--n", "4"], ["sample", path, "--n", "2"]):
    statuses.append(cli.main(words))
print(*statuses)
entry = cache_folder() / "entry"
print(read_entry(entry), write_entry(entry, b"content"))
"""


def test_a_user_without_a_name_and_without_a_home_on_an_ascii_terminal(tmp_path):
    """As `docker run --user 1042` has it: PyTorch's compiler asks for a name, and `Path.home` for a folder."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    command = [sys.executable, "-c", NAMELESS, str(tmp_path / "größe 猫"), *SHORT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *_, statuses, cache = done.stdout.splitlines()
    assert statuses == "0 0 0 0 0"
    assert cache == "None False"
    assert "Traceback" not in done.stderr


def test_a_home_that_is_not_known(monkeypatch):
    from pydantic import TypeAdapter, ValidationError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises(ValidationError, match="~ is not known here, because this user has no home folder"):
        TypeAdapter(Place).validate_python("~/pictures")


class Failing(io.StringIO):
    """A stream whose writer raises an error, as soon as it is written or when it is flushed."""

    def __init__(self, error, terminal=False):
        super().__init__()
        self.error, self.terminal = error, terminal

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error

    def isatty(self):
        return self.terminal


BROKEN = {
    "a pipe that nobody reads": lambda: Failing(BrokenPipeError(errno.EPIPE, "Broken pipe")),
    "a full disk": lambda: Failing(OSError(errno.ENOSPC, "No space left on device")),
    "a terminal that is gone": lambda: Failing(OSError(errno.EIO, "Input/output error"), terminal=True),
    "closed": lambda: Failing(ValueError("I/O operation on closed file")),
    "none": lambda: None,
}


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("kind", BROKEN)
def test_messages_that_cannot_be_written_end_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(sys, "stderr", BROKEN[kind]())
    assert cli.main(["train", "--modality", "toy", "--out", str(tmp_path / "run"), *SHORT]) == 0
    for name in ("metrics.json", "report.html", "checkpoints/step-00000004/manifest.json"):
        assert (tmp_path / "run" / name).is_file()
    assert cli.main(["train", "--modality", "toi"]) == 2


@pytest.mark.usefixtures("toy")
def test_results_that_cannot_be_written(monkeypatch, capsys):
    """A reader that has enough ends the command without a word; a full disk is told."""
    monkeypatch.setattr(sys, "stdout", BROKEN["a pipe that nobody reads"]())
    assert cli.main(["config", "--modality", "toy"]) == 1
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stdout", BROKEN["a full disk"]())
    assert cli.main(["config", "--modality", "toy"]) == 2
    assert "No space left on device. Free some space." in capsys.readouterr().err


def raising(error):
    def fail(*arguments):
        raise error

    return fail


def test_every_error_of_the_system_is_one_line(monkeypatch, capsys):
    for number in errno.errorcode.keys() - {errno.EPIPE, errno.ESHUTDOWN}:
        error = OSError(number, os.strerror(number), "some/\x1b[31mplace")
        monkeypatch.setattr("diffcore.cli._run", raising(error))
        assert cli.main(["sample"]) == 2
        line = the_line(capsys.readouterr().err)
        assert line == f"diffcore: some/\\x1b[31mplace: {os.strerror(number)}. {ADVICE.get(number, '')}".rstrip()


MEMORY = {
    "machine": [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory: you tried"),
    ],
    "GPU": [RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")],
}


@pytest.mark.parametrize(("where", "error"), [(w, e) for w, errors in MEMORY.items() for e in errors])
def test_too_little_memory_is_one_line(where, error):
    assert f"this {where} has too little memory; use smaller batches" in reason_of(error)


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


TOLD = {
    "a/b: No space left on device": OSError(errno.ENOSPC, "No space left on device", "a/b"),
    "a, b: Invalid cross-device link": OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"),
    "Input/output error": OSError(errno.EIO, "Input/output error"),
    "cannot identify the file": OSError("cannot identify the file\nor folder"),
    "this machine has too little memory": MemoryError(),
    "wrong": UserError("wrong"),
    "KeyError: 'name'": KeyError("name"),
    "ValueError: second line": ValueError("\n\nsecond line\nthird"),
    "ValueError": ValueError(),
    "SilentError": SilentError(),
}


@pytest.mark.parametrize("words", TOLD)
def test_exceptions_that_are_passed_over_are_told_in_one_form(words):
    assert told(TOLD[words]) == words


def test_mistakes_of_programmers_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("diffcore.cli._run", raising(RuntimeError("shape mismatch")))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        cli.main(["sample"])


@pytest.mark.usefixtures("toy")
def test_paths_in_commands_are_quoted_for_the_shell(tmp_path, capsys):
    run = tmp_path / "my $runs; it's"
    assert cli.main(["train", "--modality", "toy", "--out", str(run), *SHORT]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("more samples: ")]
    assert shlex.split(line.removeprefix("more samples: ")) == ["diffcore", "sample", str(run)]
    assert cli.main(["train", "--modality", "toy", "--out", str(run), *SHORT]) == 2
    assert f"diffcore resume {shlex.quote(str(run))}" in capsys.readouterr().err


def test_names_of_a_megabyte_are_not_echoed_in_full(capsys):
    assert cli.main(["x" * 2**20]) == 2
    line = the_line(capsys.readouterr().err)
    assert line.startswith("diffcore: unknown command 'xxx")
    assert len(line) <= 4000


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys, number):
    run, original, copy = tmp_path / "run", tmp_path / "original", tmp_path / "copy"
    assert cli.main(["train", "--modality", "toy", "--out", str(original), *SHORT]) == 0
    monkeypatch.setattr("fcntl.flock", raising(OSError(number, os.strerror(number))))
    assert cli.main(["train", "--modality", "toy", "--out", str(run), *SHORT]) == 0
    assert "has no locks: make sure that no other process trains this run" in capsys.readouterr().err
    shutil.copytree(original, copy)  # with its lock file, as a copy to such a file system
    assert (copy / ".run.lock").is_file()
    assert cli.main(["resume", str(copy), "--train.steps", "6"]) == 0
    assert "has no locks: make sure that no other process trains this run" in capsys.readouterr().err
    assert cli.main(["sample", str(copy), "--n", "1", "--steps", "1"]) == 0
    assert "has no locks: make sure that no other command draws samples to it" in capsys.readouterr().err


@pytest.mark.usefixtures("toy")
def test_a_copy_of_a_run_whose_lock_is_held(tmp_path, capsys):
    run, copy, linked = tmp_path / "run", tmp_path / "copy", tmp_path / "linked"
    assert cli.main(["train", "--modality", "toy", "--out", str(run), *SHORT]) == 0
    with locked(RunFolder(run)):
        shutil.copytree(run, copy)
        shutil.copytree(run, linked, copy_function=os.link)
        assert cli.main(["resume", str(copy), "--train.steps", "6"]) == 0
        said = refused(capsys, "resume", linked, "--train.steps", "6")
    assert said.endswith(f"or, if this run is a copy made of hard links, delete {linked / '.run.lock'}")
    (linked / ".run.lock").unlink()
    assert cli.main(["resume", str(linked), "--train.steps", "6"]) == 0
