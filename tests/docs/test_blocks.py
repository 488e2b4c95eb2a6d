"""Every code block of every page is run: files are written, Python is executed, commands are run."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from diffcore.api import training
from diffcore.api.run import Run
from diffcore.plugins.registry import installed
from diffcore.runs.composing import compose
from tests.docs.pages import PAGES, Block, blocks, named
from tests.docs.shell import Shell
from tests.support.prepared import PreparedProcesses
from tests.support.rough_tuning import rough_tuning
from tests.support.runs import TrainedRuns

NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")


@pytest.fixture
def place(tmp_path, monkeypatch, few_pictures):
    """An empty working folder; packages that a page installs are removed afterwards."""
    monkeypatch.chdir(tmp_path)
    for module in (
        "diffcore.evaluation.classifier",
        "diffcore_audio.evaluation.evaluator",
        "diffcore_pointcloud.evaluation.evaluator",
    ):
        monkeypatch.setattr(f"{module}._STEPS", 2)
    whole = training.train
    monkeypatch.setattr(training, "train", lambda *parts, **options: whole(*parts, **{**options, "train": FEW}))
    resume = Run.resume
    monkeypatch.setattr(Run, "resume", lambda run, train=None, **options: resume(run, {"steps": 6}, **options))
    rough_tuning(monkeypatch)
    # Likelihoods of one step.
    likelihood = Run.log_likelihood
    monkeypatch.setattr(Run, "log_likelihood", lambda run, samples, steps: likelihood(run, samples, steps=1))
    tune = Run.tune
    monkeypatch.setattr(Run, "tune", lambda run, steps, **options: tune(run, steps, **{**options, **SHORT_FIT}))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    installed.cache_clear()


FEW = {"steps": 4, "log_every": 2, "batch_size": 4, "evaluate": 0}
"""How long Python blocks train."""
SHORT_FIT = {"trajectories": 2, "iterations": 1}
"""How long Python blocks fit levels."""


PARSED = {"figures.md", "joint.md", "families.md"}
"""Pages whose commands are only parsed: those of figures and of families are long trainings that differ from others in
their options alone, and those of joint states need pairs of files.
"""


def run(
    page: list[Block],
    folder: Path,
    patch: pytest.MonkeyPatch,
    trained: TrainedRuns,
    processes: PreparedProcesses,
) -> None:
    """Run the blocks of a page in a folder; an error is raised with the place of its block."""
    shell = Shell(folder, patch, trained, processes, runs=page[0].page.name not in PARSED)
    namespace, files = {"__name__": "page"}, set()
    for block in page:
        try:
            if block.title:
                write(block, folder, files)
            elif block.language == "python":
                exec(compile(block.content, str(block), "exec"), namespace)
            elif block.language == "sh":
                shell.block(block.content)
            elif block.language == "toml":
                settings = tomllib.loads(block.content)
                compose(installed(), settings["modality"], file=settings)
            elif block.language == "text":  # the output of the command above it
                compare(block.content, shell.said)
            else:
                raise AssertionError(f"unknown language {block.language!r}")
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{block}: {type(error).__name__}: {error}") from error


def write(block: Block, folder: Path, files: set[str]) -> None:
    """Write a block to the file of its title; a second block with the same title is appended."""
    path = folder / block.title
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if block.title in files else "w") as file:
        file.write(block.content)
    files.add(block.title)


def compare(shown: str, said: str) -> None:
    """Check that the command above printed each line that a page shows, up to numbers and spaces."""

    def skeleton(line: str) -> str:
        return re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip()

    printed = {skeleton(line) for line in re.split(r"[\r\n]", said)}
    for line in filter(str.strip, shown.splitlines()):
        assert skeleton(line) in printed, f"{line!r} is not in the output:\n{said}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=named)
def test_the_blocks_of_a_page_run(page, place, monkeypatch, trained, processes):
    run(blocks(page), place, monkeypatch, trained, processes)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=named)
def test_python_is_formatted(page):
    for block in blocks(page):
        if block.language == "python":
            command = ["ruff", "format", "--check", "--quiet", "--isolated", "--line-length", "120", "-"]
            done = subprocess.run([sys.executable, "-m", *command], input=block.content, text=True)
            assert done.returncode == 0, block


@pytest.mark.parametrize(
    ("language", "content", "reason"),
    [
        ("sh", "diffcore train --modality image --train.stepz 3", "train.stepz"),
        ("sh", "diffcore train --modality image --logger tensorbord", "unknown logger"),
        ("sh", "diffcore train --modality image --train.steps 0", "greater than or equal to 1"),
        ("sh", "diffcore sample RUN --solver ddim --solver.etta 0.5", "etta"),
        ("sh", "diffcore sample missing", "missing"),
        ("sh", "diffcore plugins && rm -r x", "unknown command 'rm'"),
        ("sh", "diffcore plugin", "perhaps you meant plugins"),
        ("sh", "python tests/benchmarks/loop_cost.py --no-such-flag 3", "SystemExit"),
        ("sh", "python tests/benchmarks/no_such_script.py", "there is no"),
        ("sh", "pytest tests/no_such_tests", "no_such_tests"),
        ("python", "from diffcore.process.schedules import Cosinus", "Cosinus"),
        ("toml", 'modality = "image"\n[train]\nsteps = "many"', "train.steps"),
        ("text", "of 3 samples", "is not in the output"),
        ("ruby", "puts 3", "unknown language 'ruby'"),
    ],
)
def test_a_wrong_block_fails(language, content, reason, place, monkeypatch, trained, processes):
    with pytest.raises(AssertionError, match=re.escape(reason)):
        run([Block(Path("page.md"), 1, language, None, content)], place, monkeypatch, trained, processes)
