import os
from pathlib import Path

import pytest

from diffcore.system.cache import cache_folder, read_entry, write_entry


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


@pytest.mark.parametrize("beginning", [b"", b"diffcore cache 1\n"])
def test_an_entry_that_no_memory_holds_is_damaged(tmp_path, beginning, caplog):
    """A hole in a file takes no place on the disk."""
    path = tmp_path / "entry"
    path.write_bytes(beginning)
    os.truncate(path, 2**43)
    assert read_entry(path) is None
    assert str(path) in caplog.text


def test_a_missing_entry_is_no_damage_and_a_cache_that_cannot_be_written_is_no_error(tmp_path, caplog):
    assert read_entry(tmp_path / "none") is None
    (tmp_path / "file").write_text("in the way")
    assert not write_entry(tmp_path / "file" / "entry", b"content")
    assert read_entry(tmp_path / "file" / "entry") is None
    (tmp_path / "folder").mkdir()
    assert not write_entry(tmp_path / "folder", b"content")
