"""Conditions that samples must meet, ranks and tables, with samples whose values are known."""

import csv
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffcore.denoising.conditions import ScalarCondition
from diffcore.errors import UserError
from diffcore.plugins.data import Encoded
from diffcore.plugins.functions import load_function
from diffcore.runs.drawing import Drawing
from diffcore.runs.keeping import Wish, selected, terms_of
from diffcore.runs.scores import Scoring, functions_of
from diffcore.runs.tables import TableWriter, columns_of, require_parquet
from diffcore.sampling.inverse.operators import of_samples
from diffcore.states.noise import TRY
from diffcore.states.spaces import Euclidean

ASKED = ScalarCondition("size", 0.0, 2.0, (0.0, 1.0), "")


class Numbers(Drawing):
    """A drawing whose sample of number i and try t has the state (i + 10 t), without a network."""

    def draw(self, rows, numbers=None):
        if self.selection is not None:
            return super().draw(rows, numbers)
        numbers = rows if numbers is None else numbers
        values = [[number % TRY + 10.0 * (number // TRY)] for number in numbers]
        self.log.append(values)
        return Encoded(torch.tensor(values), {}, None)


def sampling(batch_size):
    """What is asked of how samples are drawn."""
    return SimpleNamespace(batch_size=batch_size, guides=(), particles=1, all_particles=False)


def numbers(n, asked=None):
    codec = SimpleNamespace(
        decode=lambda state, mask: state[:, 0], space=Euclidean((1,)), conditions=(ASKED,), sizes=None
    )
    model = SimpleNamespace(codec=codec, modality=SimpleNamespace(name="numbers", scorer=None))
    conditions = {"size": torch.tensor(asked if asked else [float("nan")] * n)}
    drawing = Numbers(model, Path(), sampling(batch_size=3), conditions, n)
    object.__setattr__(drawing, "log", [])
    return drawing


def scoring(drawing, **functions):
    return Scoring(drawing.model, functions={"value": float, **functions})


def kept(n, keep="", rank="", tries=100, asked=None, **functions):
    drawing = numbers(n, asked)
    found = selected(drawing, scoring(drawing, **functions), Wish(keep, tries, rank))
    return found.selection.states.state[:, 0].tolist(), found


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("value>2", [3, 4]),
        ("value >= 2", [2, 3, 4]),
        ("value<1", [0]),
        ("value=2", [2]),
        ("value==2", [2]),
        ("value!=2", [0, 1, 3, 4]),
        ("value=1..3", [1, 2, 3]),
        ("value=..1", [0, 1]),
        ("value!=1..3", [0, 4]),
        ("value", [1, 2, 3, 4]),
        ("no value", [0]),
        ("not value", [0]),
        ("value>0, value<=2", [1, 2]),
    ],
)
def test_conditions_are_what_they_say(text, passing):
    terms = terms_of(text)
    assert [k for k in range(5) if all(term.passes(float(k)) for term in terms)] == passing
    assert not any(term.passes(None) for term in terms), "a sample without the value never passes"


def test_texts_are_compared_as_texts():
    (equal,), (other,) = terms_of("smiles=CCO"), terms_of("smiles!=CCO")
    assert [equal.passes("CCO"), equal.passes("CC"), other.passes("CCO"), other.passes("CC")] == [1, 0, 0, 1]
    (larger,) = terms_of("smiles>3")
    with pytest.raises(UserError, match=r"compares with a number, and the value is the text 'CCO'"):
        larger.passes("CCO")


@pytest.mark.parametrize("text", ["", "a,,b", "qed>", "qed>high", ">3", "qed=1..x", "a<>b<"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(UserError, match="`keep`"):
        terms_of(text)


def test_samples_that_do_not_pass_are_drawn_again_with_other_noise(caplog):
    with caplog.at_level(logging.INFO):
        values, found = kept(4, "value>=12")
    assert values == [20, 21, 12, 13]  # tries 2, 2, 1 and 1
    assert found.selection.numbers == (2 * TRY, 1 + 2 * TRY, 2 + TRY, 3 + TRY)
    assert "4 samples are kept of 10 that were drawn (value>=12 holds for 40%)" in caplog.text
    assert found.n == 4
    assert found.draw([1, 3]).state[:, 0].tolist() == [21, 13]  # nothing is drawn again


def test_what_passes_does_not_depend_on_the_batch():
    drawing = numbers(5)
    small = replace(drawing, config=sampling(batch_size=1))
    object.__setattr__(small, "log", [])
    wish = Wish("value>=3, value!=4, value!=13")
    first, second = (selected(each, scoring(each), wish).selection for each in (drawing, small))
    assert first.numbers == second.numbers
    assert first.states.state.tolist() == second.states.state.tolist()


def test_tries_agree_with_the_values_of_their_sample():
    values = torch.arange(3.0)[:, None]
    assert of_samples(values, [2 + 5 * TRY, TRY, 1])[:, 0].tolist() == [2, 0, 1]
    with pytest.raises(UserError, match="those of 3 samples, and sample 3 is to be drawn"):
        of_samples(values, [3 + TRY])


def test_fewer_samples_than_asked_for_are_kept_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        values, found = kept(4, "value>=12", tries=2)
    assert (values, found.n) == ([12, 13], 2)
    assert "2 samples are kept of 8 that were drawn" in caplog.text
    assert "4 were asked for, each drawn at most 2 times" in caplog.text
    with pytest.raises(UserError, match=r"none of 8 samples passes `keep` \(value>100 holds for 0%\)"):
        kept(4, "value>100", tries=2)


def test_ranks_and_their_ties():
    assert kept(4, rank="value")[0] == kept(4, rank="high value")[0] == [3, 2, 1, 0]
    assert kept(4, rank="low value")[0] == [0, 1, 2, 3]
    assert kept(4, "value>=12", "low value")[0] == [12, 13, 20, 21]
    assert kept(4, rank="constant", constant=lambda value: 1)[0] == [0, 1, 2, 3]


def test_targets_are_ranked_by_their_distance():
    obtained = {"size": lambda value: [5.0, 1.0, None, 2.5][int(value)]}
    values, found = kept(4, rank="targets", asked=[1.0, 1.5, 1.0, 1.0], **obtained)
    assert values == [1, 3, 0, 2]  # distances 4, 0.5, none, 1.5
    assert found.conditions["size"].tolist() == [1.5, 1.0, 1.0, 1.0]
    with pytest.raises(UserError, match="`rank` targets needs a number that is asked for"):
        kept(4, rank="targets")


def test_unique_samples_need_an_identity():
    with pytest.raises(UserError, match="samples of numbers have no identity"):
        kept(4, "unique")
    drawing = numbers(4)
    made = scoring(drawing)

    def score(samples, names):
        return {name: [int(v) // 3 if name == "kind" else float(v) for v in samples] for name in names}

    scorer = SimpleNamespace(columns={}, more={}, identity="kind", require=lambda names: None, score=score)
    object.__setattr__(made, "scorer", scorer)
    found = selected(drawing, made, Wish("unique"))
    kinds = [int(value) // 3 for value in found.selection.states.state[:, 0]]
    assert len(set(kinds)) == len(kinds) == 4


def test_names_that_do_not_exist_are_told_before_drawing():
    drawing = numbers(4)
    with pytest.raises(UserError, match=r"no value is called 'valu' \(did you mean 'value'\?\); there are: value"):
        selected(drawing, scoring(drawing), Wish("valu>3"))
    assert not drawing.log


def test_functions_of_a_module_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "own_scores_of_a_test.py").write_text("def double(x):\n    return 2 * x\n\nNAME = 3\n")
    monkeypatch.chdir(tmp_path)
    found = functions_of(["own_scores_of_a_test:double", "twice=own_scores_of_a_test:double"])
    assert {name: function(4) for name, function in found.items()} == {"own_scores_of_a_test:double": 8, "twice": 8}
    for text, said in (
        ("double", "names no function: write module:function"),
        ("own_scores_of_a_test:none", "has no none"),
        ("own_scores_of_a_test:NAME", "has no function NAME"),
        ("no_such_module_here:f", "cannot be imported: ModuleNotFoundError"),
    ):
        with pytest.raises(UserError, match=said):
            load_function(text)


def test_tables_have_a_row_for_each_sample(tmp_path):
    made = scoring(numbers(3), big=lambda value: bool(value > 10), word=lambda value: f'n={value:g}, "x"')
    writer = TableWriter(SimpleNamespace(endings=(".png",)), made, columns_of(made, None), ["size"])
    assert writer.endings == (".png", ".csv", ".tsv", ".parquet")
    batches = [(torch.tensor([1.5, 20.0]), [{"size": "2.5"}, {}]), (torch.tensor([1 / 3]), [{"size": "cat"}])]
    writer.stream(batches, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["number", "asked_size", "value", "big", "word"],
        ["1", "2.5", "1.5", "0", 'n=1.5, "x"'],
        ["2", "", "20", "1", 'n=20, "x"'],
        ["3", "cat", "0.333333", "0", 'n=0.333333, "x"'],
    ]
    writer.stream(batches, tmp_path / "table.tsv")
    assert (tmp_path / "table.tsv").read_text().splitlines()[2] == '2\t\t20\t1\t"n=20, ""x"""'


def test_columns_are_chosen_or_added():
    made = scoring(numbers(1), other=float)
    assert columns_of(made, "other") == ("other",)
    assert columns_of(made, "+more, value") == ("value", "other", "more")
    for wrong in ("", "a,,b", "+"):
        with pytest.raises(UserError, match="`columns`"):
            columns_of(made, wrong)


def test_parquet_files_hold_the_same(tmp_path):
    if find_spec("pyarrow") is None:
        with pytest.raises(UserError, match=r"need the package pyarrow \(pip install pyarrow\)"):
            require_parquet(tmp_path / "table.parquet")
        return
    from pyarrow import parquet

    made = scoring(numbers(3), nothing=lambda value: None, word=str)
    writer = TableWriter(SimpleNamespace(endings=(".png",)), made, made.columns, [])
    writer.stream([(torch.tensor([1.5, 20.0]), ())], tmp_path / "table.parquet")
    assert parquet.read_table(tmp_path / "table.parquet").to_pydict()["value"] == [1.5, 20.0]
