"""Generated packages work: their tests pass, they are free of lint, and the command line can use them."""

import csv
import glob
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest
import torch

from diffcore import cli
from diffcore.denoising.conditions import ScalarCondition
from diffcore.plugins.building import part_of
from diffcore.plugins.records import API_VERSION
from diffcore.plugins.scaffold import FEATURES, KINDS, kept, template_of
from diffcore.states.spaces import Product
from diffcore.testing.checks import CHECKS
from diffcore.testing.conformance import plugin_under_test, run_check
from tests.support.refusals import refused

ROOT = Path(__file__).parents[2]
LONG = "a-name-of-just-thirty-letters0"
SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(FEATURES, size)]


def folder_of(subset):
    """The folder of the package with these features, which is also its name without `my-`."""
    return "sets" if len(subset) == len(FEATURES) else "-".join(("part", *subset))


def discoverable(package):
    """Write the metadata that an installer would write, from pyproject.toml, so that its entry points are found."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = package / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((group, points),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {module}" for name, module in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return package


def module_of(package):
    """The name of the Python package in that folder."""
    return f"diffcore_my_{package.name.replace('-', '_')}"


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A package of each kind, and one of each subset of the features, made by the command line."""
    folder = tmp_path_factory.mktemp("packages")
    chosen = {kind: ["--kind", kind] for kind in KINDS}
    chosen |= {folder_of(subset): ["--with", ",".join(subset)] for subset in SUBSETS}
    for name, options in chosen.items():
        assert cli.main(["new-plugin", f"my-{name}", *options, "--out", str(folder / name)]) == 0
    return [discoverable(folder / name) for name in chosen]


@pytest.fixture(scope="module")
def run(packages, tmp_path_factory):
    """A function that runs Python with the packages next to diffcore, in an empty folder; it returns the output."""
    folder = tmp_path_factory.mktemp("elsewhere")
    paths = [str(ROOT), *map(str, packages), *(p for p in sys.path if p)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment.pop("DIFFCORE_PLUGINS", None)

    def run(*arguments, **more):
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env=environment | more,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


USING = """
import json, sys
paths, *commands, tests = map(json.loads, sys.argv[1:])
sys.path[:] = paths
import pytest
from diffcore.cli import main

for command in commands:
    assert main(command) == 0, command
sys.exit(pytest.main(tests))
"""


@pytest.fixture(scope="module")
def used(packages, processes, tmp_path_factory):
    """The folder in which one process has used all packages on the command line, and what their own tests then said."""
    folder = tmp_path_factory.mktemp("used")
    small = ["--data.n", "100", "--denoiser.width", "16", "--logger.my-logger.every", "2"]
    flags = ["--train.steps", "6", "--train.log-every", "2", "--train.batch-size", "8", "--train.evaluate", "8"]
    chosen = ["--schedule", "my-schedule", "--logger", "my-logger", "--metric", "my-metric"]
    train = ["train", "--modality", "my-modality", "--out", folder / "run", *flags, *chosen, *small]

    solver = ["--solver", "my-solver", "--solver.node", "0.6", "--steps", "5", "--condition", "damping=heavy"]
    guide = ["--guide", "my-guidance", "--guide.limit", "0.1"]
    sample = ["sample", folder / "run", "--n", "3", "--out", folder / "samples.csv", *solver, *guide]

    tests = ["-q", "-p", "no:cacheprovider", "-k", "not TestMyPart", *[package / "tests" for package in packages]]
    paths = [str(ROOT), *map(str, packages), *filter(None, sys.path)]
    arguments = [json.dumps(each, default=str) for each in (paths, train, sample, tests)]
    done = processes(USING, arguments, folder, COLUMNS="200", DIFFCORE_PLUGINS=None)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_their_own_tests_pass(used):
    _, printed = used
    assert "failed" not in printed
    assert int(printed.splitlines()[-1].split()[0]) > 40


def test_they_are_clean(tmp_path):
    """Also with the longest possible name, which gives the longest lines."""
    rules = "E,F,W,I,UP,B,C4,SIM,RUF,PT,PTH,N"
    chosen = [["--kind", kind] for kind in KINDS] + [["--with", ",".join(subset)] for subset in SUBSETS]
    for options in chosen:
        folder = tmp_path / options[1]
        assert cli.main(["new-plugin", LONG, *options, "--out", str(folder)]) == 0
        for check in (["check", "-q", "--select", rules, "."], ["format", "--check", "-q", "."]):
            done = subprocess.run(["ruff", *check], cwd=folder, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


UNUSED = (
    *("_decomp", "_dynamo", "_export", "_functorch", "_higher_order_ops", "_inductor", "_library", "_lobpcg"),
    *("_meta_registrations", "_prims", "_prims_common", "_refs", "_subclasses", "accelerator", "ao", "backends"),
    *("compiler", "distributed", "export", "func", "fx", "jit", "masked", "mps", "mtia", "multiprocessing", "nested"),
    *("nn.intrinsic", "nn.qat", "nn.quantizable", "nn.quantized", "onnx", "package", "profiler", "quantization"),
    *("sparse", "testing", "utils.data", "xpu"),
)
"""Parts of torch that take most of the time of mypy. Types of the packages do not depend on them: it finds as many
expressions of type Any in each module (`--any-exprs-report`) if it reads them."""


def test_their_types_hold(packages, run, tmp_path):
    """By mypy --strict. Its analysis of torch, which takes longest, is kept in a folder of the cache."""
    names = [name for package in packages for name in ("-p", module_of(package))]
    paths = os.pathsep.join(map(str, [ROOT, *packages]))
    cache = ROOT / ".mypy_cache" / "generated"
    unread = [*(f"torch.{part}" for part in UNUSED), "sympy", "onnx", "onnx_ir", "onnxscript", "ml_dtypes", "rich"]
    sections = ",".join(f"{module}.*" for module in unread)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n[mypy-{sections}]\nfollow_imports = skip\n")
    options = ["--strict", "--config-file", tmp_path / "mypy.ini", "--follow-imports", "silent", "--cache-dir", cache]
    run("-m", "mypy", *options, *names, MYPYPATH=paths)


@pytest.mark.parametrize("subset", SUBSETS, ids=",".join)
def test_each_subset_of_features_has_its_parts_and_works(subset, packages, tmp_path, monkeypatch):
    """In `used`, all three together pass all checks of plugins; here those that take longer are left out."""
    (package,) = [package for package in packages if package.name == folder_of(subset)]
    monkeypatch.syspath_prepend(str(package))
    plugin = plugin_under_test(importlib.import_module(f"{module_of(package)}.plugin").MODALITY)
    encoded, codec = plugin.codec.encode(plugin.data.examples), plugin.codec

    masks = encoded.mask is not None
    assert masks == (codec.sizes is not None) == ("mask" in subset)
    if masks:
        assert codec.sizes.counts == {n: int((encoded.mask.sum(1) == n).sum()) for n in range(3, 9)}
    assert isinstance(codec.space, Product) == ("fields" in subset)
    assert list(getattr(plugin.model.denoiser.backbone, "views", {})) == ["kind"] * ("fields" in subset)

    evaluator = part_of(plugin.modality, "evaluator", codec, plugin.data, tmp_path)
    assert [type(condition) for condition in codec.conditions] == [ScalarCondition] * ("scalar" in subset)
    assert hasattr(evaluator, "measure") == ("scalar" in subset)
    if codec.conditions:
        measured = evaluator.measure(codec.decode(encoded.state, encoded.mask))
        torch.testing.assert_close(measured, encoded.conditions)

    longer = {"imports_light", "data_repeat", "checkpoint_round_trip", "exact_resume"}
    results = [run_check(check, plugin) for check in CHECKS if check.name not in longer]
    assert [str(result) for result in results if result.is_error] == []
    skipped = {result.name for result in results if result.status == "skipped"}
    others = {"encoding_invariances", "reader_reads", "classifier_predicts", "token_padding"}
    others |= set() if masks else {"padding_changes_nothing"}
    assert skipped == others | (set() if codec.conditions else {"conditions_sound"})


def test_marks_choose_lines():
    text = (
        "a\n#[mask]\nb\n  #[not scalar]\n  c\n  #[end]\nd #[scalar and mask]\n#[end]\ne  #[mask or fields]\nf # [g]\n"
    )
    assert kept(text, ()) == "a\nf # [g]\n"
    assert kept(text, ["mask"]) == "a\nb\n  c\ne\nf # [g]\n"
    assert kept(text, ["mask", "scalar"]) == "a\nb\nd\ne\nf # [g]\n"
    assert kept(text, ["fields", "scalar"]) == "a\ne\nf # [g]\n"


def test_no_marks_are_left(packages):
    for package in packages:
        for path in package.rglob("*"):
            assert path.is_dir() or not re.search(r"#\[|__[A-Z]+__", path.read_text()), path


def test_the_command_line_uses_them_all(used):
    folder, _ = used
    with (folder / "run" / "train_log.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "6"]
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        metrics = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    assert metrics["distinct_real"] == 1
    assert 0 < metrics["velocity_error_real"] < 0.03 < metrics["velocity_error"]

    with (folder / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 64
    # The standard deviation of the displacement is below one, so its limit is too; an untrained network gives noise.
    assert 0 < max(abs(float(row["displacement"])) for row in rows) < 0.1


def test_files_say_what_to_edit_first(packages):
    for package in packages:
        files = [package / "pyproject.toml", *package.rglob("*.py")]
        edited = [path for path in files if path.name != "__init__.py"]
        assert len(edited) >= 5
        for path in edited:
            assert path.read_text().count("# Edit first: ") == 1, path


def test_they_are_made_for_this_version_of_the_api(packages):
    for package in packages:
        (plugin,) = package.rglob("plugin.py")
        assert f"\nAPI_VERSION = {API_VERSION}\n" in plugin.read_text()


def test_the_command_prints_how_to_begin(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new-plugin", "few-shapes", "--kind", "dataset", "--for", "molecule"]) == 0
    printed = capsys.readouterr().out
    assert "pip install -e diffcore-few-shapes" in printed
    assert "diffcore train --modality molecule --data few-shapes --data.n 100" in printed
    written = {path: path.read_text() for path in Path("diffcore-few-shapes").rglob("*") if path.is_file()}
    assert 'frozenset({"molecule"})' in written[Path("diffcore-few-shapes/diffcore_few_shapes/plugin.py")]
    assert not [path for path, text in written.items() if "template" in str(path) or "__SERVES__" in text + str(path)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["My_Waves"], "perhaps 'my-waves'"),
        (["3d"], "begin with a letter; perhaps 'd'"),
        (["waves-"], "perhaps 'waves'"),
        (["wäves"], "must be of small letters"),
        (["../waves"], "must be of small letters"),
        ([""], "must be of small letters"),
        (["class"], "a word of Python's own"),
        (["match"], "a word of Python's own"),
        ([LONG + "0"], "has 31 characters"),
        (["image"], "taken by diffcore-image"),
        (["image", "--kind", "solver"], "taken by the distribution diffcore-image"),
        (["ddim", "--kind", "solver"], "taken by diffcore,"),
        (["digits", "--kind", "dataset"], "taken by diffcore-image"),
        (["few", "--kind", "dataset", "--for", "smells"], "unknown modality 'smells'"),
        (["few", "--kind", "solver", "--for", "image"], "--for belongs to --kind dataset"),
        (["few", "--kind", "thing"], "invalid choice"),
        (["few", "--with", "scaler,mask"], "--with does not know 'scaler' (did you mean 'scalar'?)"),
        (["few", "--with", "mask,colour"], "'colour'; write some of mask, scalar, fields, separated by commas"),
        (["few", "--with", ","], "write some of mask, scalar, fields"),
        (["few", "--with", "mask", "--kind", "solver"], "--with belongs to --kind modality"),
        (["image", "--with", "mask"], "taken by diffcore-image"),
        ([], "is missing"),
    ],
)
def test_mistakes_get_a_line_and_leave_nothing(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, "new-plugin", *arguments)
    assert not list(tmp_path.iterdir())


def test_a_second_package_in_the_same_place_is_refused(tmp_path, capsys):
    out = tmp_path / "there"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert f"{out} exists already" in refused(capsys, "new-plugin", "waves", "--out", out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert cli.main(["new-plugin", "waves", "--out", str(tmp_path / "new")]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert "exists already" in refused(capsys, "new-plugin", "other", "--out", tmp_path / "new")
    assert before == {path: path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()}


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    written = []
    write = Path.write_text

    def full_disk(path, *arguments, **keywords):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "write_text", full_disk)
    assert cli.main(["new-plugin", "waves", "--out", str(tmp_path / "waves")]) == 2
    assert len(written) == 3
    assert not list(tmp_path.iterdir())


def test_templates_are_part_of_the_distribution():
    """Every file is matched by a pattern of the package's data."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["diffcore"]
    folder = Path(str(resources.files("diffcore")))
    packed = {Path(path) for pattern in data for path in glob.glob(str(folder / pattern), recursive=True)}  # noqa: PTH207
    files = {path for path in (folder / "plugins" / "templates").rglob("*") if path.is_file()}
    assert len(files) > 40
    assert files <= packed
    assert {path.name for path in (folder / "plugins" / "templates").iterdir()} == {*KINDS, "common", "sets"}
    for kind in KINDS:
        assert template_of(kind).next
    assert len(template_of("modality", FEATURES).next) == len(template_of("modality", ["fields"]).next) + 2
