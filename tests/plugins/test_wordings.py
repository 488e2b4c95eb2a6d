import pytest
import torch

from diffcore.plugins.wordings import UNSAID, one_of, read, said, with_article

WORDINGS = {
    "kind": {"bell": ("bell",), "drum": ("drum", "bass drum")},
    "size": {"small": ("small", "tiny"), "big": ("big", "not small")},
    "pitch": {"low": ("low", "bass"), "high": ("high-pitched",)},
}


def test_values_are_found_in_any_sentence():
    found = read(
        ["A TINY, high pitched bell!", "a bass drum that is not small", "a bass bell", "nothing of this"], WORDINGS
    )
    assert {name: value.tolist() for name, value in found.items()} == {
        "kind": [0, 1, 0, UNSAID],
        "size": [0, 1, UNSAID, UNSAID],
        "pitch": [1, UNSAID, 0, UNSAID],
    }


def test_of_two_values_of_an_attribute_the_first_one_counts():
    assert read(["a small bell and a big drum"], WORDINGS)["kind"].tolist() == [0]


def test_what_is_said_is_found_again():
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randint(-1, len(ways), (500,), generator=generator) for name, ways in WORDINGS.items()}
    rows = said(values, WORDINGS, generator)
    assert all(
        (row.get("size") is None) == (number == UNSAID)
        for row, number in zip(rows, values["size"].tolist(), strict=True)
    )
    assert {row["kind"] for row in rows if "kind" in row} == {"bell", "drum", "bass drum"}
    found = read(
        [" and ".join([row.get("kind", ""), row.get("size", ""), row.get("pitch", "")]) for row in rows], WORDINGS
    )
    assert all(torch.equal(found[name], values[name]) for name in WORDINGS)


def test_attributes_are_left_out_with_a_probability():
    values = {"size": torch.zeros(4000, dtype=torch.int64)}
    rows = said(values, WORDINGS, torch.Generator().manual_seed(0), left_out=0.25)
    assert sum("size" not in row for row in rows) / 4000 == pytest.approx(0.25, abs=0.03)


def test_small_helpers():
    assert [one_of(("a", "b"), u) for u in (0.0, 0.49, 0.5, 0.99)] == ["a", "a", "b", "b"]
    assert (with_article("open hi-hat"), with_article("bell")) == ("an open hi-hat", "a bell")
