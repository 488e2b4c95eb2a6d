"""The shell commands of the pages. The first word of a line decides how it is tested.

The flags of a `diffcore` line are parsed by the real options as they are written. Then the command is run with a
smaller network and less data. Stand-ins replace PATH, PICTURE.png and the like. Commands that still take too long are
only parsed.
"""

import argparse
import contextlib
import io
import json
import os
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser as torchrun_options

from diffcore.cli import SHARED, main
from diffcore.cli import distill as distill_command
from diffcore.cli import evaluate as evaluate_command
from diffcore.cli import optimise as optimise_command
from diffcore.cli import sample as sample_command
from diffcore.cli import tune as tune_command
from diffcore.cli.flags import parse, run_settings
from diffcore.cli.selectors import read as read_flags
from diffcore.cli.selectors import take_table
from diffcore.plugins.registry import installed
from tests.docs import given
from tests.docs.pages import ROOT
from tests.support.prepared import PreparedProcesses
from tests.support.runs import TrainedRuns

ENDS = ("--train.steps", "4", "--train.log-every", "2", "--train.batch-size", "4", "--sample.steps", "2")
CODED = {
    "image": (
        "--train.steps",
        "60",
        "--train.batch-size",
        "16",
        "--train.learning-rate",
        "0.01",
        "--train.evaluate",
        "20",
    )
}
"""Flags for first stages in whose latents a page trains a model, since one that is hardly trained is refused."""
UNUSED = ("--train.steps", "2", "--train.batch-size", "4", "--train.evaluate", "0")
"""Flags for the other first stages."""
SMALLER = {
    "image": ("--denoiser.width", "8"),
    "molecule": ("--denoiser.width", "16", "--denoiser.depth", "1", "--denoiser.inner", "4"),
    "audio": ("--denoiser.width", "8", "--denoiser.patch", "8"),
    "pointcloud": ("--denoiser.width", "16", "--denoiser.latents", "4", "--denoiser.rounds", "1"),
}
"""Flags for small networks, for the kinds of data whose default network is slow."""
EMBEDDED = {
    "scenes": ("--data.pictures", "200", "--denoiser.width", "12", "--denoiser.depth", "1"),
    "drums": ("--data.sounds", "24"),
    "shapes": ("--data.shapes", "40", "--data.points", "64"),
}
"""Flags for less of the embedded data."""
FEWER = {
    "sample": ("--n", "2", "--steps", "2"),
    "evaluate": ("--n", "20", "--steps", "2"),
    "resume": ("--train.steps", "6"),
    "distill": ("--train.steps", "2", "--train.evaluate", "0"),
    "tune": ("--steps", "2", "--trajectories", "2", "--iterations", "1"),
}
EVALUATED = ("image", "table")
"""Kinds of data whose metrics are fast; for the others, `evaluate` is only parsed."""


_PYTEST = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


class Shell:
    """A folder in which the commands of one page are run, one after the other; or only parsed, if `runs` is False."""

    def __init__(
        self,
        folder: Path,
        patch: pytest.MonkeyPatch,
        trained: TrainedRuns,
        processes: PreparedProcesses,
        *,
        runs: bool = True,
    ) -> None:
        self.folder, self.patch, self.trained, self.processes, self.runs = folder, patch, trained, processes, runs
        self.said = ""
        """The output of the last block."""
        self.known: dict[str, Callable[[list[str]], None]] = {
            "diffcore": self._diffcore,
            "torchrun": self._torchrun,
            "pip": self._pip,
            "pytest": self._pytest,
            "python": self._python,
            "python3.11": lambda words: _only(words, "-m venv .venv"),
            "source": lambda words: _only(words, ".venv/bin/activate"),
            "ruff": lambda words: _only(words, "format .", "check ."),
            "mypy": lambda words: _only(words, ""),
            "mkdocs": lambda words: _only(words, "serve", "build --strict"),
            ".ci/run": lambda words: _only(words, ""),
        }

    def block(self, content: str) -> None:
        """Run the lines of a block; raises where a line is unknown or fails."""
        self.said = ""
        for line in content.replace("\\\n", " ").splitlines():
            for command in re.split(r"&&", line):
                if words := shlex.split(command, comments=True):
                    self.line(words)

    def line(self, words: list[str]) -> None:
        """Run one command."""
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            self.patch.setenv(name, value)
        if words[0] not in self.known:
            raise AssertionError(f"unknown command {words[0]!r}: {shlex.join(words)}")
        self.known[words[0]](words[1:])

    def _diffcore(self, words: list[str]) -> None:
        command, *arguments = words
        if not self.runs:
            read(command, arguments)
            return
        given.put_in_place(arguments, self._stand_in)
        read(command, arguments)
        if command == "train":
            arguments = self._shorter(arguments)
            if arguments is None:
                return
        if command == "evaluate" and modality_of(Path(arguments[0])) not in EVALUATED:
            return
        if (command == "judge" and "--run" not in arguments) or command == "optimise":
            return  # a model that is hardly trained has no samples that pass
        sized = command in ("sample", "evaluate") and "--size" in arguments
        if sized and modality_of(Path(arguments[0])) == "pointcloud":
            arguments = [*arguments, "--size", "96"]
        fewer = FEWER.get(command, ())
        if command == "evaluate" and not draws(Path(arguments[0])):
            fewer = ("--n", "20")
        self._call([command, *arguments, *fewer])

    def _torchrun(self, words: list[str]) -> None:
        """Run in one process what the line runs in several."""
        read = torchrun_options().parse_args(words)  # it takes flags of `diffcore` for its own where none ends its own
        assert read.module, words
        module, command, *arguments = (read.training_script, *read.training_script_args)
        assert module == "diffcore", words
        assert command in SHARED, words
        self._diffcore([command, *arguments])

    def _shorter(self, arguments: list[str]) -> list[str] | None:
        """The same training with a smaller network and less data; None where no stand-in for its data exists."""
        settings, _ = run_settings(arguments, installed(), "diffcore train")
        if getattr(settings.data, "root", None) == str(Path("PATH").absolute()) and not Path("PATH").is_dir():
            return None
        network = SMALLER.get(settings.modality, ())
        if hasattr(settings, "autoencoder"):
            return [*arguments, *EMBEDDED.get(settings.data.name, ()), *CODED.get(settings.modality, UNUSED)]
        if not hasattr(settings, "denoiser"):
            same = hasattr(settings, "classifier")
            network = tuple(flag.replace("denoiser", "classifier") for flag in network if same)
        evaluated = "20" if settings.modality in EVALUATED else "0"
        fewer = EMBEDDED.get(settings.data.name, ())
        return [*arguments, *network, *fewer, *ENDS, "--train.evaluate", evaluated]

    def _stand_in(self, modality: str, out: str) -> None:
        """Train a run, for lines that use a run of the reader."""
        arguments = self._shorter(["--modality", modality])
        assert arguments is not None
        self.trained(out, *arguments)

    def _call(self, words: list[str]) -> None:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = main(words)
        self.said += out.getvalue()
        assert status == 0, f"diffcore {shlex.join(words)} ends with {status}: {self.said[-800:]}"

    def _pip(self, words: list[str]) -> None:
        assert words[0] == "install", words
        if words[1:] == ["-r", "requirements.txt"]:
            assert (ROOT / "requirements.txt").is_file()
        elif words[1] == "-e":
            install((self.folder / words[2]).resolve(), self.patch)
        else:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            (wanted,) = words[1:]
            found = re.fullmatch(r"diffcore\[(\w+)\]|(posebusters|fadtk)", wanted)
            assert found, f"pip install {wanted}"
            assert found[2] or found[1] in extras, f"pip install {wanted}"

    def _pytest(self, words: list[str]) -> None:
        if words[:2] == ["-n", "0"]:
            words = words[2:]
        if (self.folder / "pyproject.toml").exists():
            options = ["-q", "-p", "no:cacheprovider", *words]
            done = self.processes(_PYTEST, [json.dumps([str(self.folder), *sys.path]), *options], self.folder)
            self.said += done.stdout
            assert done.returncode == 0, done.stdout
        for word in words:
            assert (ROOT / word).exists(), f"pytest {word}"

    def _python(self, words: list[str]) -> None:
        """Check that a script exists and accepts its flags."""
        script, *flags = words
        path = ROOT / script
        assert path.is_file(), f"there is no {script}"
        if "argparse" in path.read_text():
            accepted(path, flags)
        else:
            assert not flags, f"{script} takes no flags"


class _AcceptedError(Exception):
    """Raised when a script has parsed its flags."""


def accepted(script: Path, flags: list[str]) -> None:
    """Run a script until it has parsed its flags."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *arguments: object, **keywords: object) -> None:
        original(self, *arguments, **keywords)
        raise _AcceptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [str(script), *flags])
        patch.syspath_prepend(str(script.parent))
        with pytest.raises(_AcceptedError):
            runpy.run_path(str(script), run_name="__main__")


DRAWING = {"sample": (sample_command, ()), "evaluate": (evaluate_command, ("metric",))}
"""Commands that draw samples, and the flags that each takes any number of times."""


def read(command: str, arguments: list[str]) -> None:
    """Parse the flags of a line with the options of its command; a wrong flag raises."""
    registry = installed()
    if command == "train":
        run_settings(arguments, registry, "diffcore train")
    elif command == "judge" and "--run" not in arguments:
        run_settings(arguments[1:], registry, "diffcore judge")
    elif command == "optimise":
        read_flags(optimise_command.Options, arguments, registry, "diffcore optimise", "")
    elif command == "distill":
        parse(distill_command.Options, distill_command.own_and_others(arguments)[0], "diffcore distill", "")
    elif command == "tune":
        read_flags(tune_command.Options, arguments, registry, "diffcore tune", "", one=())
    elif command in ("sample", "evaluate"):
        module, flags = DRAWING[command]
        rest, _ = take_table(arguments, "write")  # checked by the run
        if command == "sample":
            rest, _ = sample_command.take_output(rest, registry)
            rest, _ = sample_command.take_given(rest, registry)
        read_flags(module.Options, rest, registry, f"diffcore {command}", "", many=flags)


def modality_of(run: Path) -> str:
    """The kind of data of a run."""
    from diffcore.runs.folder import open_run

    return open_run(run, installed())[1].settings.modality


def draws(run: Path) -> bool:
    """Whether a run draws samples; if not, options of drawing are refused."""
    from diffcore.runs.folder import open_run

    return installed().task(open_run(run, installed())[1].settings.task.name).draws


def install(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Do what `pip install -e .` does, without a network: make the packages and entry points of a folder importable."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    about, tool = project["project"], project["tool"]["setuptools"]
    for package in tool.get("packages", []):
        assert (folder / package.replace(".", "/") / "__init__.py").is_file(), package
    for module in tool.get("py-modules", []):
        assert (folder / f"{module}.py").is_file(), module
    beside = folder / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    beside.mkdir()
    (beside / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    lines = [f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
             for group, points in about["entry-points"].items()]  # fmt: skip
    (beside / "entry_points.txt").write_text("\n".join(lines))
    patch.syspath_prepend(str(folder))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT), *filter(None, sys.path)]))
    installed.cache_clear()
    failed = [failure for failure in installed().failures if failure.distribution == about["name"]]
    assert not failed, failed


def _only(words: list[str], *allowed: str) -> None:
    assert " ".join(words) in allowed, f"{' '.join(words)!r} is not one of {allowed}"
