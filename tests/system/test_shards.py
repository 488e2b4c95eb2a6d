"""Rows are encoded once, in shards, whatever interrupts it, and mapped in the order that is asked for."""

import threading

import pytest
import torch

from diffcore.errors import UserError
from diffcore.system import shards
from diffcore.system.mapped import is_mapped, mapped
from diffcore.system.shards import Form, encode

FORM = Form((2, 3), torch.int16)
PARTS, ROWS = 5, 7


def row(number):
    return torch.arange(6, dtype=torch.int16).reshape(2, 3) + 100 * number


def records(part, seen=None):
    """The rows of a part; that of each record whose number is a multiple of 4 is missing."""
    if seen is not None:
        seen.append(part)
    for place in range(ROWS):
        number = part * ROWS + place
        yield (None if number % 4 == 0 else row(number)), {"number": number}


def encoded(folder, read=records):
    return encode(folder, [f"part {part}" for part in range(PARTS)], FORM, read, "rows", PARTS * ROWS)


def present():
    return [number for number in range(PARTS * ROWS) if number % 4]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*/*") if path.name[0] != "."}


def test_rows_are_mapped_in_the_order_that_is_asked_for(tmp_path):
    found = encoded(tmp_path)
    assert [record["number"] for record in found.records] == list(range(PARTS * ROWS))
    assert [record["number"] for record, used in zip(found.records, found.used, strict=True) if used] == present()
    order = torch.tensor([3, 25, 0, 11, 12, 13])
    rows = found.rows(order)
    assert torch.equal(rows, torch.stack([row(present()[number]) for number in order]))
    assert is_mapped(rows)
    assert is_mapped(rows[2:4])
    assert not is_mapped(rows[torch.tensor([0])])
    assert not is_mapped(rows.clone())


def test_rows_can_be_changed_while_they_are_joined(tmp_path):
    order = torch.tensor([5, 1, 2])
    sums = encoded(tmp_path).rows(order, Form((2,), torch.int16), lambda rows: rows.sum(2).short(), "sums")
    assert torch.equal(sums, torch.stack([row(present()[number]).sum(1).short() for number in order]))


def test_what_is_encoded_is_not_encoded_again(tmp_path):
    order, seen = torch.arange(20), []
    first = encoded(tmp_path).rows(order).clone()
    again = encoded(tmp_path, lambda part: records(part, seen))
    assert torch.equal(again.rows(order), first)
    assert not seen
    assert not [name for name in files(tmp_path) if name.endswith(".bin") and name != "rows.bin"]


def test_another_order_encodes_again(tmp_path):
    encoded(tmp_path).rows(torch.arange(20))
    seen = []
    rows = encoded(tmp_path, lambda part: records(part, seen)).rows(torch.tensor([9, 8]))
    assert torch.equal(rows, torch.stack([row(present()[9]), row(present()[8])]))
    assert sorted(seen) == list(range(PARTS))


def test_changed_parts_are_another_set(tmp_path):
    encoded(tmp_path)
    seen = []
    encode(tmp_path, ["part 0", "new"], FORM, lambda part: records(part, seen), "rows")
    assert sorted(seen) == [0, 1]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_interrupted_encoding_continues_to_the_same_bytes(tmp_path, monkeypatch, workers):
    """It ends within part 3: parts that were finished stay, the half-written one is written again."""
    monkeypatch.setattr(shards, "workers", lambda: workers)

    def broken(part):
        for place, each in enumerate(records(part)):
            if part == 3 and place == 4:
                raise KeyboardInterrupt
            yield each

    with pytest.raises(KeyboardInterrupt):
        encoded(tmp_path / "interrupted", broken)
    finished = [name for name in files(tmp_path / "interrupted") if name.endswith(".entry")]
    assert 0 < len(finished) < PARTS
    seen = []
    found = encoded(tmp_path / "interrupted", lambda part: records(part, seen))
    assert len(seen) == PARTS - len(finished)
    assert 3 in seen
    plain = encoded(tmp_path / "plain")
    before, after = files(tmp_path / "plain"), files(tmp_path / "interrupted")
    assert before == after
    order = torch.arange(20)
    assert torch.equal(found.rows(order), plain.rows(order))


@pytest.mark.parametrize("how", ["cut off", "changed"])
def test_a_damaged_shard_is_encoded_again(tmp_path, caplog, how):
    found = encoded(tmp_path)
    path = next(tmp_path.glob("*/000002.bin"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] if how == "cut off" else bytes([content[0] ^ 1]) + content[1:])
    if how == "cut off":
        found = encoded(tmp_path)
    rows = found.rows(torch.arange(26))
    assert torch.equal(rows, torch.stack([row(number) for number in present()]))
    assert ("000002.bin" in caplog.text) == (how == "changed")


@pytest.mark.parametrize("how", ["cut off", "changed", "missing", "damaged entry"])
def test_a_damaged_file_of_joined_rows_is_made_again(tmp_path, how):
    order = torch.arange(20)
    kept = encoded(tmp_path).rows(order).clone()
    path = next(tmp_path.glob("*/rows.bin"))
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "damaged entry":
        path.with_suffix(".entry").write_bytes(b"no entry")
    else:
        path.unlink()  # it is mapped
        path.write_bytes(content[:-1] if how == "cut off" else bytes([content[0] ^ 1]) + content[1:])
    assert torch.equal(encoded(tmp_path).rows(order), kept)


def test_what_is_kept_beside_rows_belongs_to_them(tmp_path):
    found, made = encoded(tmp_path), []

    def total(rows):
        made.append(0)
        return int(rows.sum())

    for order in (torch.arange(20), torch.arange(20), torch.arange(10)):
        rows = found.rows(order)
        assert found.kept("sum", lambda rows=rows: total(rows)) == int(rows.sum())
    assert len(made) == 2


def test_parts_are_encoded_side_by_side(tmp_path, monkeypatch):
    """Each of two parts waits for the other one to begin."""
    monkeypatch.setattr(shards, "workers", lambda: 2)
    both = threading.Barrier(2, timeout=10)

    def read(part):
        both.wait()
        yield from records(part)

    assert len(encode(tmp_path, ["a", "b"], FORM, read, "rows").records) == 2 * ROWS


def test_a_full_disk_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match=r"has 0\.0 GB left: make room there"):
        encoded(tmp_path)


def test_a_row_of_another_form_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"a row \[4\]"):
        encode(tmp_path, ["a"], FORM, lambda part: [(torch.zeros(4, dtype=torch.int16), None)], "rows")


def test_parts_are_no_larger_than_a_shard():
    assert [len(piece) for piece in Form((1,)).pieces(2500)] == [1000, 1000, 500]
    large = Form((3, 2048, 2048)).pieces(11)
    assert [len(piece) for piece in large] == [5, 5, 1]
    assert 5 * Form((3, 2048, 2048)).bytes <= shards.SHARD_BYTES < 6 * Form((3, 2048, 2048)).bytes


def test_a_file_of_another_size_is_not_mapped(tmp_path):
    (tmp_path / "file").write_bytes(bytes(5))
    with pytest.raises(ValueError, match="5 bytes instead of 6"):
        mapped(tmp_path / "file", (3,), torch.int16)
    assert mapped(tmp_path / "file", (5,), torch.uint8).tolist() == [0] * 5
