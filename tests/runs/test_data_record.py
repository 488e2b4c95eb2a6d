"""The record of a run's data: what is written, what is printed and what the report shows."""

import json

import pytest
import torch
from tensordict import TensorDict

from diffcore.denoising.conditions import ClassCondition, ScalarCondition
from diffcore.evaluation.report import data_section
from diffcore.plugins.data import Data
from diffcore.plugins.ledger import Account
from diffcore.plugins.records import NoOptions
from diffcore.runs import data_record
from diffcore.runs.data_record import read_record, record_of, summary, write_record
from diffcore.runs.folder import RunFolder


class Codec:
    conditions = (ClassCondition("label", ("cat", "<dog>")), ScalarCondition("size", 0.0, 1.0, (0.0, 1.0)))


def examples(*labels):
    return TensorDict({"label": torch.tensor(labels), "size": torch.zeros(len(labels))}, batch_size=[len(labels)])


@pytest.fixture
def record():
    account = Account("pictures", "/data", 20, "classes are the outermost folders", {"readmes": ("README",)})
    for number in range(15):
        account.pass_over(f"{number:02d}.txt", "not read")
    for number in range(20):
        account.change(f"{number}.png", "cropped")
    account.note("3.png", "blurred")
    ledger = account.ledger(skip=False, size="32x32 pixels", colour="grey")
    data = Data(NoOptions(), examples(0, 1, 1, 2), examples(1, 0), ("a warning",), ledger)
    return record_of("own", data, Codec())


def test_the_summary_is_short(record):
    assert summary(record) == [
        "data own: 20 pictures in /data; 4 for training, 2 held out",
        "2 classes: cat 1+1, <dog> 2+1",
        "classes are the outermost folders",
        "size: 32x32 pixels, colour: grey",
        "changed: cropped: 20 (all)",
        "note: blurred: 1 (3.png)",
        "passed over: readmes: 1 (README)",
        "passed over: not read: 15 (00.txt, 01.txt, 02.txt and 12 more)",
        "a warning",
    ]


def test_all_names_are_written_and_read_back(record, tmp_path):
    run = RunFolder(tmp_path)
    write_record(run, record)
    assert read_record(run) == record
    stored = json.loads((tmp_path / "data.json").read_text())
    assert stored["passed_over"]["not read"]["names"] == [f"{number:02d}.txt" for number in range(15)]
    assert stored["classes"] == {"label": {"cat": [1, 1], "<dog>": [2, 1]}}


@pytest.mark.parametrize("content", ["[", "[]", "{}", '{"data": 1, "found": 0}'])
def test_a_damaged_record_is_not_used(tmp_path, content):
    (tmp_path / "data.json").write_text(content)
    assert read_record(RunFolder(tmp_path)) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("layout", True), ("about", None), ("about", {"size": 3}), ("classes", {"label": {"cat": [1]}}), ("notes", [1]),
     ("training", -1), ("changed", {"cropped": {"count": "x", "names": []}})],
)  # fmt: skip
def test_a_record_of_another_form_is_not_used(record, tmp_path, caplog, key, value):
    run = RunFolder(tmp_path)
    write_record(run, {**record, key: value})
    assert read_record(run) is None
    assert f"data.json is damaged and is not used: {run.data}: {key}" in caplog.text


def test_the_report_shows_all_names(record):
    html = data_section(record)
    assert all(f"{number:02d}.txt" in html for number in range(15))
    assert '<td class="number">2</td>' in html
    assert "&lt;dog&gt;" in html
    assert "<dog>" not in html


def test_data_without_files_have_a_record():
    data = Data(NoOptions(), examples(0, 1, 0))
    assert summary(record_of("made", data, Codec())) == [
        "data made: 3 for training, 0 held out",
        "2 classes: cat 2, <dog> 1",
    ]


def test_the_record_is_bounded(record, monkeypatch):
    monkeypatch.setattr(data_record, "MOST_NAMED", 20)
    account = Account("pictures", "/data", 20)
    for number in range(15):
        account.pass_over(f"{number:02d}.txt", "not read")
    data = Data(NoOptions(), examples(0), ledger=account.ledger(skip=False))
    assert record_of("own", data, Codec())["passed_over"] == {
        "not read": {"count": 15, "names": ["00.txt", "01.txt", "02.txt"]}
    }


def test_long_names_are_cut_in_lines_only():
    account = Account("pictures", "/data", 1)
    account.pass_over("a" * 300 + "z", "not read")
    data = Data(NoOptions(), examples(0), ledger=account.ledger(skip=False))
    record = record_of("own", data, Codec())
    assert record["passed_over"]["not read"]["names"] == ["a" * 300 + "z"]
    assert summary(record)[-1] == f"passed over: not read: 1 ({'a' * 60}…{'a' * 58}z)"
