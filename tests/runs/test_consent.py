"""Runs of other users: what their configuration would do outside of the run folder needs a word of consent."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

import diffcore as dc
from diffcore import cli
from diffcore.plugins.records import Component, Place, Settings
from diffcore.plugins.registry import Provided
from diffcore.runs import consent
from diffcore.runs.folder import RunFolder, open_run
from diffcore.system.files import digest_of, write_summed_json
from tests.support.refusals import refused
from tests.support.toy import ToyBackbone, ToyData, ToyNet, points, put_in_place, toy_registry

TRAIN = ("--modality", "toy", "--train.steps", "2", "--train.evaluate", "0", "--sample.steps", "2")
STARTED = []


class Options(ToyData):
    root: Place = None
    download: bool = False


class Inner(Settings):
    names: tuple[str, ...] = ()


class Plain(ToyData):
    """Options of a plugin that does not declare its places."""

    file: str = "its/own"
    unit: str = "m"
    more: Path | None = None
    inner: Inner = Inner()


class Where(Settings):
    table: Place = None


class Weights(ToyNet):
    weights: str = ""


class Silent:
    def row(self, row):
        pass

    picture = metrics = lambda self, step, found: None

    def close(self):
        pass


def sends(options, folder, settings):
    STARTED.append(folder.name)
    return Silent()


@pytest.fixture(scope="module")
def registry():
    """The toy with a data set that has places, a metric that reads a file, and a logger."""
    with pytest.MonkeyPatch.context() as patch:
        registry = toy_registry()
        parts = {
            "datasets": Component("placed", "rings", points, Options),
            "denoisers": Component("pretrained", "mlp", lambda o, space: ToyBackbone(o.width, o.dropout), Weights),
            "metrics": Component("tabled", "nothing", lambda o, codec, data: lambda samples, conditions: [], Where),
            "loggers": Component("sends", "to a service", sends),
        }
        for kind, part in parts.items():
            getattr(registry, kind)[part.name] = Provided(part, "diffcore-toy", "1.0")
        registry.datasets["plain"] = Provided(Component("plain", "rings", points, Plain), "diffcore-toy", "1.0")
        put_in_place(patch, registry)
        yield registry


@pytest.fixture(scope="module")
def made(registry, tmp_path_factory):
    """A run of this user: data at a place, and a logger."""
    out = tmp_path_factory.mktemp("own") / "run"
    assert cli.main(["train", *TRAIN, "--data", "placed", "--data.root", "/here", "--logger", "sends", "--out", str(out)]) == 0  # fmt: skip # noqa: E501
    return out


@pytest.fixture
def own(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def stranger(own, monkeypatch):
    """The same run, on the machine of another user with another key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(own.parent / "other user"))
    monkeypatch.setenv("DIFFCORE_CACHE", str(own.parent / "other cache"))
    monkeypatch.setattr(consent, "_key_of_this_process", lambda: b"another process")
    consent.signature_of({})  # makes the key
    STARTED.clear()
    return own


def configure(run, **settings):
    """Write these settings to the run as a stranger would, with an intact digest."""
    content = json.loads(RunFolder(run).config.read_text())
    content.pop("sha256")
    for name, value in settings.items():
        content["settings"][name] = {**content["settings"].get(name, {}), **value} if value else {}
    write_summed_json(RunFolder(run).config, content)


def test_one_s_own_run_never_asks_also_where_its_folder_moves(own, tmp_path):
    assert cli.main(["evaluate", str(own), "--n", "4"]) == 0
    moved = shutil.move(own, tmp_path / "elsewhere")
    assert cli.main(["resume", str(moved), "--train.steps", "3"]) == 0
    assert cli.main(["resume", str(moved), "--train.steps", "4"]) == 0
    assert len(dc.load(moved).data.examples) == 200


WORDS = {
    "place": ({"data": {"root": "/etc"}, "logger": None}, "read /etc; "),
    "download": ({"data": {"root": None, "download": True}, "logger": None}, "download data; "),
    "metric": ({"data": {"root": None}, "logger": None, "metric": {"tabled": {"table": "/t"}}}, "read /t; "),
}


@pytest.mark.parametrize("case", WORDS)
def test_data_of_a_stranger_s_run_need_consent(case, stranger, capsys):
    settings, words = WORDS[case]
    configure(stranger, **settings)
    for command in (["resume", stranger, "--train.steps", "3"], ["evaluate", stranger, "--n", "4"]):
        said = refused(capsys, *command)
        assert said.startswith(f"diffcore: {stranger} was made by another user or an earlier version, or its config")
        assert f" was changed, and it would {words}to allow that, add --trust" in said
    with pytest.raises(dc.UserError, match="add `trust`"):
        _ = dc.load(stranger).data
    assert len(dc.load(stranger, trust=True).data.examples) == 200
    before = RunFolder(stranger).config.read_bytes()
    assert cli.main(["evaluate", str(stranger), "--n", "4", "--trust"]) == 0
    assert RunFolder(stranger).config.read_bytes() == before  # an evaluation does not change the run
    refused(capsys, "resume", stranger, "--train.steps", "3")
    assert cli.main(["resume", str(stranger), "--train.steps", "3", "--trust"]) == 0
    assert cli.main(["evaluate", str(stranger), "--n", "4"]) == 0  # it is this user's own from now on


PLAIN = {
    "path": ({"file": "/etc/passwd"}, "read /etc/passwd"),
    "relative": ({"file": "../x"}, "read ../x"),
    "home": ({"file": "~other"}, "read ~other"),
    "address": ({"file": "https://some.where"}, "read https://some.where"),
    "in this folder": ({"file": "here.csv"}, "read here.csv"),
    "Path": ({"more": "/a"}, "read /a"),
    "nested": ({"inner": {"names": ["a", "/b", "/c"]}}, "read /b and read /c"),
    "default": ({"file": "its/own", "unit": "kg"}, None),
}


@pytest.mark.parametrize("case", PLAIN)
def test_places_that_a_plugin_does_not_declare_need_consent(case, stranger, capsys, monkeypatch):
    options, words = PLAIN[case]
    monkeypatch.chdir(stranger.parent)
    Path("here.csv").touch()
    content = json.loads(RunFolder(stranger).config.read_text())
    content["settings"] = {**content["settings"], "data": {"name": "plain", **options}, "logger": {}}
    del content["sha256"]
    write_summed_json(RunFolder(stranger).config, content)
    if words is None:
        assert cli.main(["evaluate", str(stranger), "--n", "4"]) == 0
        return
    said = refused(capsys, "evaluate", stranger, "--n", "4")
    assert f"and it would {words}; to allow that, add --trust; diffcore config" in said
    assert cli.main(["evaluate", str(stranger), "--n", "4", "--trust"]) == 0


def test_a_network_that_names_files_needs_consent_for_every_use(stranger, capsys):
    configure(stranger, denoiser={"name": "pretrained", "weights": "/else/where"}, data={"root": "/data"}, logger=None)
    out = stranger.parent / "out"
    for command in (["sample", stranger, "--n", "2", "--out", out], ["tune", stranger, "--steps", "2"]):
        said = refused(capsys, *command)
        assert "it would read /data and read /else/where; to allow that, add --trust; diffcore config" in said
    with pytest.raises(dc.UserError, match="read /else/where"):
        dc.load(stranger)
    assert not out.exists()
    assert cli.main(["sample", str(stranger), "--n", "2", "--out", str(out), "--trust"]) == 0
    assert cli.main(["tune", str(stranger), "--steps", "2", "--trajectories", "4", "--iterations", "1", "--trust"]) == 0


def test_training_says_what_a_configuration_file_lets_it_do(registry, tmp_path, capsys):
    file = tmp_path / "c.toml"
    words = 'modality = "toy"\n[data]\nname = "placed"\nroot = "/there"\ndownload = true\n[logger.sends]\n'
    file.write_text(words)
    train = ["train", "--config", str(file), *TRAIN[2:]]
    assert cli.main([*train, "--out", str(tmp_path / "a")]) == 0
    acts = "read /there and download data and start the logger sends"
    assert f"as {file} says, this run will {acts}\n" in capsys.readouterr().err
    assert cli.main([*train, "--data.root", "/mine", "--data.no-download", "--out", str(tmp_path / "b")]) == 0
    assert f"as {file} says, this run will start the logger sends\n" in capsys.readouterr().err
    file.write_text('modality = "toy"\n')
    assert cli.main([*train, "--data", "placed", "--data.root", "/mine", "--out", str(tmp_path / "c")]) == 0
    assert f"as {file} says" not in capsys.readouterr().err


def test_loggers_of_a_stranger_s_run_need_consent(stranger, capsys):
    configure(stranger, data={"root": None})
    assert cli.main(["evaluate", str(stranger), "--n", "4"]) == 0  # starts no logger
    said = refused(capsys, "resume", stranger, "--train.steps", "3")
    assert "it would start the logger sends; to allow that, add --trust; diffcore config" in said
    with pytest.raises(dc.UserError, match="start the logger sends"):
        dc.load(stranger).resume({"steps": 3})
    assert STARTED == []
    again = dc.load(stranger, trust=True).resume({"steps": 3})
    assert STARTED == ["run"]
    again.resume({"steps": 4})


def test_without_a_key_the_message_says_so(stranger, capsys):
    key = stranger.parent / "other user" / "diffcore" / "key"
    key.unlink()
    said = refused(capsys, "evaluate", stranger, "--n", "4")
    assert f"cannot be told from a run of another user, as there is no key of yours in {key}, and it would " in said
    assert cli.main(["evaluate", str(stranger), "--n", "4", "--trust"]) == 0
    assert not key.exists()  # reading a run makes no key


def test_samples_of_a_stranger_s_run_need_no_consent(stranger):
    assert cli.main(["sample", str(stranger), "--n", "2", "--out", str(stranger.parent / "out")]) == 0
    assert cli.main(["tune", str(stranger), "--steps", "2", "--trajectories", "4", "--iterations", "1"]) == 0
    assert STARTED == []


def test_data_that_the_user_names_need_no_consent(stranger, capsys):
    configure(stranger, logger=None)
    assert "or name data of your own with --data.root" in refused(capsys, "resume", stranger, "--train.steps", "3")
    assert cli.main(["evaluate", str(stranger), "--n", "4", "--data.root", "/mine"]) == 0
    assert cli.main(["resume", str(stranger), "--train.steps", "3", "--data.root", "/mine"]) == 0
    assert cli.main(["resume", str(stranger), "--train.steps", "4"]) == 0


def test_a_run_that_acts_in_its_folder_only_never_asks(stranger):
    configure(stranger, data={"root": None}, logger=None)
    content = json.loads(RunFolder(stranger).config.read_text())
    del content["signature"], content["sha256"]  # as versions before signatures wrote it
    RunFolder(stranger).config.write_text(json.dumps(content))
    assert cli.main(["evaluate", str(stranger), "--n", "4"]) == 0
    assert cli.main(["resume", str(stranger), "--train.steps", "3"]) == 0


def test_a_signature_does_not_hold_after_a_change(own, registry):
    run = RunFolder(own)
    before = run.config.read_text()
    assert open_run(own, registry)[1].own
    configure(own, train={"learning_rate": 0.5})
    assert not open_run(own, registry)[1].own
    for signature in (None, 3, "", "ü" * 64, "0" * 64):
        run.config.write_text(json.dumps({**json.loads(before), "signature": signature}))
        assert not open_run(own, registry)[1].own
    run.config.write_text(before)
    assert open_run(own, registry)[1].own


def test_the_key_is_secret_made_once_and_not_taken_from_others(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    content, other = {"settings": {"a": 1.5}}, {"settings": {"a": 1.25}}
    assert digest_of(content) != digest_of(other)
    signature = consent.signature_of(content)
    key = tmp_path / "diffcore" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [path.name for path in key.parent.iterdir()] == ["key"]
    assert consent._new_key() == key.read_bytes()  # a second process, which was as quick
    assert consent.signature_of(content) == signature
    assert consent.is_own(content, signature)
    assert not consent.is_own(other, signature)
    monkeypatch.setattr(os, "geteuid", lambda: key.stat().st_uid + 1)
    assert not consent.is_own(content, signature)


def test_without_a_place_for_the_key_runs_are_own_in_the_same_process(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path / "file"))
    signature = consent.signature_of({})
    assert consent.is_own({}, signature)
    monkeypatch.setattr(consent, "_key_of_this_process", lambda: b"the next one")
    assert not consent.is_own({}, signature)
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path / "cache"))  # the second place
    consent.signature_of({})
    assert (tmp_path / "cache" / "key").is_file()
    assert Path(tmp_path / "file").read_bytes() == b""
