import os
from pathlib import Path

import pytest
import torch
from torch import nn

from diffcore.system.cache import cache_folder, read_entry, trained_once, write_entry


def test_the_cache_s_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("DIFFCORE_CACHE", "/kept/here")
    assert cache_folder() == Path("/kept/here")
    monkeypatch.delenv("DIFFCORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/kept")
    assert cache_folder() == Path("/kept/diffcore")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/diffcore")


def test_every_changed_byte_and_every_cut_is_noticed(tmp_path, caplog):
    path = tmp_path / "entry"
    assert write_entry(path, b"content")
    assert read_entry(path) == b"content"
    assert not caplog.records
    stored = path.read_bytes()
    for place in range(len(stored)):
        path.write_bytes(stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :])
        assert read_entry(path) is None
        path.write_bytes(stored[:place])
        assert read_entry(path) is None
    path.write_bytes(stored + b"\0")
    assert read_entry(path) is None
    assert len(caplog.records) == 2 * len(stored) + 1
    assert str(path) in caplog.text


def test_an_entry_under_the_name_of_another_is_noticed(tmp_path):
    write_entry(tmp_path / "a", b"content of a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert read_entry(tmp_path / "b") is None


def irregular(path, kind):
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        target = path.with_name("elsewhere") / path.name
        write_entry(target, b"content")
        path.symlink_to("/dev/zero" if kind == "link to a device" else target)


KINDS = ["folder", "pipe", "link", "link to a device"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_regular_file_is_never_read(tmp_path, kind, caplog):
    path = tmp_path / "entry"
    irregular(path, kind)
    assert read_entry(path) is None
    assert "not a regular file" in caplog.text
    if kind != "folder":
        assert write_entry(path, b"new")
        assert read_entry(path) == b"new"


def test_a_missing_entry_is_no_damage_and_a_cache_that_cannot_be_written_is_no_error(tmp_path, caplog):
    assert read_entry(tmp_path / "none") is None
    (tmp_path / "file").write_text("in the way")
    assert not write_entry(tmp_path / "file" / "entry", b"content")
    assert read_entry(tmp_path / "file" / "entry") is None
    (tmp_path / "folder").mkdir()
    assert not write_entry(tmp_path / "folder", b"content")


class Trained:
    """A network with weights of its own, and a function that trains it and counts its calls."""

    def __init__(self, size=3, value=2.0):
        torch.manual_seed(0)
        self.network, self.value, self.calls = nn.Linear(size, 1), value, 0
        self.before = None

    def train(self):
        self.calls += 1
        self.before = self.network.weight.detach().clone()
        nn.init.constant_(self.network.weight, self.value)

    def once(self, path):
        trained_once(self.network, path, self.train)
        return self


def test_weights_are_trained_once_and_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "weights"
    assert Trained().once(path).calls == 1
    again = Trained().once(path)
    assert again.calls == 0
    assert (again.network.weight == 2).all()
    stored = path.read_bytes()
    for place in range(0, len(stored), 7):
        path.write_bytes(stored[:place] + bytes([stored[place] ^ 64]) + stored[place + 1 :])
        damaged = Trained().once(path)
        assert damaged.calls == 1
        assert (damaged.network.weight == 2).all()
        assert path.read_bytes() == stored


def test_weights_of_another_network_do_not_touch_the_first_weights_of_this_one(tmp_path):
    path = tmp_path / "weights"
    Trained(3).once(path)
    other = Trained(4)
    first = other.network.weight.detach().clone()
    assert other.once(path).calls == 1
    assert torch.equal(other.before, first)


def test_weights_that_are_not_finite_are_neither_cached_nor_read(tmp_path):
    path = tmp_path / "weights"
    Trained(value=float("nan")).once(path)
    assert not path.exists()
    from safetensors.torch import save

    write_entry(path, save({"weight": torch.full((1, 3), float("inf")), "bias": torch.zeros(1)}))
    assert Trained().once(path).calls == 1
