"""What somebody else sent executes nothing, stays in its folder and takes bounded memory: runs, checkpoints, files."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffcore import cli
from diffcore.errors import UserError, printable
from diffcore.evaluation.evaluate import read_metrics, write_metrics
from diffcore.evaluation.page import page
from diffcore.evaluation.report import facts_table, metrics_table
from diffcore.plugins.output import Metric
from diffcore.plugins.registry import Provided
from diffcore.runs.checkpoints import find_checkpoint
from diffcore.runs.composing import compose, read_toml
from diffcore.runs.fitted_grid import read_fitted_grids
from diffcore.runs.folder import RunFolder
from diffcore.runs.model import build_model
from diffcore.system.files import read_json
from diffcore.system.tensor_file import numbers_in, tensors_in
from tests.support.measured import usage_of
from tests.support.refusals import the_line
from tests.support.toy import TOY, ToyBackbone, ToyCodec, toy_registry

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path for folder in (ROOT / "diffcore", ROOT / "plugins") for path in folder.rglob("*.py"))
MOST_MEMORY, MOST_READ = 100 * 2**20, 20 * 2**20
"""Limits for a command that is refused. The largest JSON file that is read has 16 MiB."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy):
    path = tmp_path_factory.mktemp("whole") / "run"
    train = ["train", "--modality", "toy", "--out", str(path), "--train.steps", "20", "--train.evaluate", "4"]
    assert cli.main([*train, "--train.checkpoint-every", "10", "--sample.steps", "2"]) == 0
    return path


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture
def said():
    """A function that runs a command, checks its memory and what it reads, and returns the line of its error."""

    def line(*arguments):
        found = usage_of(lambda: cli.main([str(argument) for argument in arguments]))
        assert found.returned == 2
        assert found.memory < MOST_MEMORY
        assert found.read < MOST_READ
        return the_line(found.stderr)

    return line


def test_memory_and_reading_are_measured_below_an_earlier_peak(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(b"")
    os.truncate(file, 4 * MOST_MEMORY)
    assert len(file.read_bytes()) == 4 * MOST_MEMORY  # a peak of this process, which would hide later growth
    os.truncate(file, 2 * MOST_MEMORY)
    found = usage_of(lambda: len(file.read_bytes()))
    assert found.returned == 2 * MOST_MEMORY
    assert 2 * MOST_MEMORY <= found.read < 2.1 * MOST_MEMORY
    assert 1.9 * MOST_MEMORY < found.memory < 2.1 * MOST_MEMORY
    found = usage_of(lambda: None)
    assert found.read < 2**20
    assert found.memory < 2**25


def change(path, *keys, value):
    """Change one value in a JSON file."""
    content = json.loads(path.read_text())
    table = content
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    path.write_text(json.dumps(content))


# Nothing is executed


FORBIDDEN = (
    r"\b(c?[pP]ickle|dill|joblib|shelve|marshal|torch\.load|allow_pickle|yaml\.load|exec|eval|__reduce__)\b"
    r"\s*([(=]|\.\w)"
)


def test_no_package_can_unpickle():
    # The method `eval` of modules; reading without pickle.
    allowed = (".eval()", "allow_pickle=False")
    modules = re.compile(r"^\s*(import|from) (pickle|cPickle|dill|joblib|shelve|marshal)\b")
    assert len(PACKAGES) > 150
    assert not [
        f"{path.relative_to(ROOT)}:{number}: {line}"
        for path in PACKAGES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if modules.search(line) or (re.search(FORBIDDEN, line) and not any(word in line for word in allowed))
    ]


def test_nothing_that_loads_calls_pickle(run, monkeypatch):
    import pickle

    def refuse(*arguments, **keywords):
        raise AssertionError("pickle is read")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    assert cli.main(["sample", str(run.path), "--n", "2", "--steps", "2"]) == 0
    assert cli.main(["resume", str(run.path), "--train.steps", "25"]) == 0
    assert cli.main(["config", str(run.path)]) == 0


# JSON and TOML


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[" * 40 + b"]" * 40, "nested more than 32 deep"),
        (b'{"a": NaN}', "NaN is not a number of JSON"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": 1e999}', "1e999 is too large a number"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b'{"a": "' + b"x" * 17 * 2**20 + b'"}', "at most 16,777,216 are read"),
    ],
    ids=["endless", "deep", "nan", "infinity", "large", "long", "bytes", "size"],
)
def test_json_that_is_none_is_refused_in_a_line(run, said, content, expected):
    run.config.write_bytes(content)
    for command in ("config", "sample", "resume"):
        assert expected in said(command, run.path)
    for file, read in ((run.fitted_grids, read_fitted_grids), (run.metrics, read_metrics)):
        file.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(expected)):
            read(run)
    find_checkpoint(run)
    (find_checkpoint(run) / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(expected)):
        read_json(find_checkpoint(run) / "manifest.json")


def test_a_sparse_file_of_a_terabyte_is_not_read(run, said):
    os.truncate(run.config, 2**40)
    assert "has 1,099,511,627,776 bytes; at most 16,777,216 are read" in said("config", run.path)


def test_toml_of_somebody_else(tmp_path, said, monkeypatch):
    monkeypatch.setattr("diffcore.system.limits.memory", lambda: 2**34)
    file = tmp_path / "run.toml"
    for content, expected in (
        ("a = " + "[" * 5000, "cannot be read as TOML"),
        ("a = " + "[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("[train]\nlearning_rate = inf\n", "train.learning_rate: input should be a finite number"),
        ("[train]\nbatch_size = 999999999999\n", "train.batch_size: input should be less than or equal to"),
        ("[sample]\nsteps = 999999999999\n", "sample.steps: input should be less than or equal to"),
        ("[denoiser]\nwidth = 40000\n", "a network of more than"),
        ("[denoiser]\nwidth = 1000000000\n", "a network that no memory holds"),
        ("[denoiser]\nwidth = 10000000000000000\n", "a network that no memory holds"),
        ("train = 3\n", "train: input should be a table"),
    ):
        file.write_text(content)
        line = said("train", "--modality", "toy", "--out", tmp_path / "new", "--config", file)
        assert expected in line
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe or a device"):
        read_toml(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe or a device"):
        read_toml(Path("/dev/zero"))


@pytest.mark.parametrize("value", [None, 3, "x", [], {"a": 1}, [[1]], True, -1, 1e308], ids=repr)
@pytest.mark.parametrize("keys", [("settings",), ("settings", "train"), ("settings", "modality"), ("facts",)], ids=repr)
def test_values_of_wrong_types_are_refused_in_a_line(run, said, keys, value):
    change(run.config, *keys, value=value)
    if keys == ("settings", "train") and value == {"a": 1}:
        assert "train.a is not an option here" in said("sample", run.path)
    else:
        said("sample", run.path)


def test_figures_and_metrics_of_somebody_else(run, capsys):
    for rows in (
        {"a": 1},
        [3],
        [{"name": "a", "value": "x", "meaning": "b"}],
        [{"name": 1, "value": 1, "meaning": ""}],
    ):
        run.metrics.write_text(json.dumps(rows))
        with pytest.raises(UserError, match=r"metrics\.json does not contain metrics"):
            read_metrics(run)
    write_metrics(run, [Metric("a", float("nan"), "none")])
    assert str(read_metrics(run)[0].value) == "nan"
    run.train_log.write_text('{"step": 5, "loss": "x"}\n')
    assert cli.main(["resume", str(run.path), "--train.steps", "22"]) == 0
    run.train_log.write_text('{"step": 5, "loss": 1.0, "seconds": "<b>"}\n{"step": ' + "9" * 100_000 + ', "loss": 1}\n')
    assert cli.main(["evaluate", str(run.path), "--n", "4"]) == 0
    assert "<b>" not in run.report.read_text()


# Paths


@pytest.mark.parametrize("name", ["config.json", "train_log.jsonl", "fitted_grids.json", "metrics.json", "report.html"])
def test_a_file_that_leads_out_of_the_run_is_refused(run, tmp_path, said, name):
    outside = tmp_path / "outside"
    path = run.path / name
    outside.write_bytes(path.read_bytes() if path.exists() else b"{}")
    before = outside.read_bytes()
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    for command in ("sample", "resume", "evaluate"):
        assert f"{path} is a link" in said(command, run.path)
    assert outside.read_bytes() == before


@pytest.mark.parametrize("name", ["samples", "checkpoints"])
def test_a_folder_that_leads_out_of_the_run_is_refused(run, tmp_path, said, name):
    (run.path / name).rename(tmp_path / "outside")
    (run.path / name).symlink_to(tmp_path / "outside")
    for command in ("sample", "resume"):
        assert "is a link" in said(command, run.path)


@pytest.mark.parametrize("name", ["config.json", "train_log.jsonl", ".run.lock"])
def test_pipes_do_not_make_anybody_wait(run, said, name):
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    assert "is not a file" in said("resume", run.path)


@pytest.mark.parametrize("what", ["checkpoint", "weights", "manifest", "pipe"])
def test_links_and_pipes_in_checkpoints_are_refused(run, tmp_path, said, what):
    newest = find_checkpoint(run)
    shutil.copytree(newest, tmp_path / "outside")
    for old in run.checkpoints.iterdir():
        if old != newest:
            shutil.rmtree(old)
    file = newest / {"weights": "ema.safetensors", "manifest": "manifest.json", "pipe": "ema.safetensors"}.get(what, "")
    if what == "checkpoint":
        shutil.rmtree(newest)
        newest.symlink_to(tmp_path / "outside")
        assert "has no checkpoint" in said("sample", run.path)
        return
    file.unlink()
    if what == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(tmp_path / "outside" / file.name)
    assert ("a pipe or a device" if what == "pipe" else "is a link") in said("sample", run.path)


def test_a_picture_replaces_a_link_and_does_not_follow_it(run, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (run.samples / "step-00000025.csv").symlink_to(outside)
    assert cli.main(["resume", str(run.path), "--train.steps", "25"]) == 0
    assert outside.read_text() == "mine"
    assert not (run.samples / "step-00000025.csv").is_symlink()


@pytest.mark.parametrize("name", ["../run/checkpoints/step-00000020", "..", ".", "", "/etc", "step-00000020/../x"])
def test_names_of_checkpoints_are_names(run, said, name):
    assert "has no checkpoint" in said("sample", run.path, "--checkpoint", name)


# Checkpoints


def forged(run, content):
    """Put a file with a fitting manifest in place of the newest average; there is no other checkpoint."""
    newest = find_checkpoint(run)
    for old in run.checkpoints.iterdir():
        if old != newest:
            shutil.rmtree(old)
    (newest / "ema.safetensors").write_bytes(content)
    sums = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change(newest / "manifest.json", "files", "ema.safetensors", value=sums)


def tensors(header, data=b""):
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + data


def entry(shape, start, end, kind="F32"):
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\x80\x04\x95.",  # a pickle
        (2**62).to_bytes(8, "little") + b"{}",
        tensors(b"[" * 10_000),
        tensors([1]),
        tensors({"a": 3}),
        tensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        tensors({"a": entry([2], 8, 16)}, bytes(16)),
        tensors({"a": entry([2], 0, 2**50)}, bytes(8)),
        tensors({"a": entry([2**40, 2**40], 0, 8)}, bytes(8)),
        tensors({"a": entry([-2], 0, 8)}, bytes(8)),
        tensors({"a": entry([2], 0, 8, "X9")}, bytes(8)),
        tensors({"a": entry([2.5], 0, 8)}, bytes(8)),
        tensors({"a": entry("xy", 0, 8)}, bytes(8)),
        tensors({"a": entry([1] * 5000, 0, 4)}, bytes(4)),
    ],
    ids=range(16),
)
def test_headers_that_do_not_fit_their_files_are_refused(run, said, content):
    forged(run, content)
    assert "has no usable checkpoint (1 damaged)" in said("sample", run.path)


def test_a_sound_header_counts_its_numbers(tmp_path):
    content = tensors({"a": entry([2, 3], 0, 24), "b": entry([], 24, 28), "__metadata__": {"x": "y"}}, bytes(28))
    (tmp_path / "a").write_bytes(content)
    assert numbers_in(tmp_path / "a") == 7
    assert tensors_in(content).keys() == {"a", "b"}


@pytest.mark.parametrize("length", [b"", b"\xff" * 8, (20).to_bytes(8, "little")])
def test_files_whose_header_is_too_long_have_no_tensors(tmp_path, length):
    (tmp_path / "a").write_bytes(length)
    for read in (lambda: numbers_in(tmp_path / "a"), lambda: tensors_in(length)):
        with pytest.raises(ValueError, match="its header would have"):
            read()


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("step",), -1), (("step",), 10**400), (("step",), 19), (("step",), "20"), (("seconds",), -1),
        (("steps_back",), []), (("files",), []), (("files", "model.safetensors"), {"bytes": 10**30, "sha256": ""}),
        (("files", "model.safetensors"), {"bytes": -1, "sha256": 3}),
    ],
    ids=range(9),
)  # fmt: skip
def test_manifests_with_absurd_values_are_refused(run, capsys, keys, value):
    change(find_checkpoint(run) / "manifest.json", *keys, value=value)
    assert cli.main(["resume", str(run.path), "--train.steps", "25"]) == 0
    said = capsys.readouterr().err
    assert "step-00000020 is skipped: " in said
    assert "going on from step 10" in said


def test_paths_in_manifests_lead_nowhere(run):
    manifest = find_checkpoint(run) / "manifest.json"
    change(manifest, "files", "../../../outside.safetensors", value={"bytes": 1, "sha256": "0"})
    change(manifest, "files", "/etc/passwd", value={"bytes": 1, "sha256": "0"})
    assert cli.main(["sample", str(run.path), "--n", "1", "--steps", "2"]) == 0


def test_sparse_weights_of_a_terabyte_are_not_read(run, said):
    for checkpoint in run.checkpoints.iterdir():
        os.truncate(checkpoint / "ema.safetensors", 2**40)
        change(checkpoint / "manifest.json", "files", "ema.safetensors", "bytes", value=2**40)
    assert "has no usable checkpoint (2 damaged)" in said("sample", run.path)


@pytest.mark.parametrize("width", [5000, 10**6, 10**15])
def test_a_network_that_is_larger_than_its_weights_is_not_built(run, said, width):
    change(run.config, "settings", "denoiser", "width", value=width)
    for command in ("sample", "resume"):
        arguments = ("--train.steps", "30") if command == "resume" else ()
        assert re.search("a network (of more than|that no memory)", said(command, run.path, *arguments))


def test_samples_that_no_memory_holds_are_refused():
    registry = toy_registry()

    class Vast(ToyCodec):
        space = type(ToyCodec.space)({"place": type(ToyCodec.space.parts["place"])((10**7, 10**6))})

    registry.modalities["toy"] = Provided(replace(TOY, codec=Vast), "toy", "1.0")
    settings = compose(registry, "toy")
    with pytest.raises(UserError, match=r"a sample would have 10,000,000,000,000 numbers; at most 268,435,456"):
        build_model(settings, TOY.facts(), registry)


def test_endless_parts_of_networks_are_refused(monkeypatch):
    monkeypatch.setattr("diffcore.system.limits.MOST_MODULES", 1000)

    def init(self, width, dropout):
        torch.nn.Module.__init__(self)
        self.width = width
        self.net = torch.nn.Sequential(*(torch.nn.SiLU() for _ in range(2000)))

    monkeypatch.setattr(ToyBackbone, "__init__", init)
    registry = toy_registry()
    with pytest.raises(UserError, match="a network of more than 1,000 parts"):
        build_model(compose(registry, "toy"), TOY.facts(), registry)


def test_optimiser_states_of_another_shape_are_refused(run, said):
    from safetensors.torch import load_file, save

    newest = find_checkpoint(run)
    for key, value, expected in (
        ("exp_avg/backbone.net.0.weight", torch.zeros(3), "has another shape"),
        ("evil/backbone.net.0.weight", torch.zeros(3), "is not in it"),
        ("exp_avg/nothing", torch.zeros(3), "is not in it"),
    ):
        content = save({**load_file(newest / "training.safetensors"), key: value})
        copy = RunFolder(run.path.with_name(f"run-{key.replace('/', '-')}"))
        shutil.copytree(run.path, copy.path)
        target = find_checkpoint(copy)
        (target / "training.safetensors").write_bytes(content)
        sums = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        change(target / "manifest.json", "files", "training.safetensors", value=sums)
        assert expected in said("resume", copy.path, "--train.steps", "30")


# Words


EVIL = "<script>alert('1')</script>\"><img src=x onerror=alert(2)>\x1b[2J"


def test_words_of_a_run_are_escaped_in_its_report():
    text = page(EVIL, [(EVIL, metrics_table([Metric(EVIL, 1.0, EVIL)])), ("b", facts_table({EVIL: EVIL}))])
    assert "<script>alert" not in text
    assert "<img src=x" not in text


def test_words_of_a_run_do_not_rule_the_terminal(run, said, capsys):
    assert printable("a\x1b]0;x\x07\u202eb\ud800") == "a\\x1b]0;x\\x07\\u202eb\\ud800"
    change(run.config, "plugins", value={EVIL: EVIL})
    change(run.config, "settings", "modality", value=EVIL)
    assert "\x1b" not in said("sample", run.path)
