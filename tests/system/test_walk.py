"""Finding files where the file system is not a tree."""

import errno
import os
from pathlib import Path

import pytest

from diffcore.errors import UserError
from diffcore.system import walk as module
from diffcore.system.walk import DANGLING, SPECIAL, TWICE, walk


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def test_files_are_found_in_the_order_of_their_names(tmp_path):
    put(tmp_path, "b/1", "a/z/2", "a-b/3", "0", ".hidden", ".folder/4", "__MACOSX/5", "@eaDir/6")
    assert walk(tmp_path).files == ("0", "a/z/2", "a-b/3", "b/1")


@pytest.mark.parametrize("target", [".", "..", "../b", "1"])
def test_a_link_within_the_folder_adds_nothing(tmp_path, target):
    put(tmp_path, "data/a/1", "data/b/2")
    (tmp_path / "data" / "a" / "link").symlink_to(target)
    found = walk(tmp_path / "data")
    assert found.files == ("a/1", "b/2")
    assert found.passed_over == {TWICE: ("a/link",)}


def test_a_link_that_leads_above_the_folder_does_not_come_back(tmp_path):
    put(tmp_path, "data/a/1", "2")
    (tmp_path / "data" / "a" / "link").symlink_to("../..")
    found = walk(tmp_path / "data")
    assert found.files == ("a/1", "a/link/2")
    assert found.passed_over == {TWICE: ("a/link/data",)}


def test_links_that_lead_into_each_other_end(tmp_path):
    put(tmp_path, "a/1", "b/2")
    for name, other in ("ab", "ba"):
        for number in range(2):
            (tmp_path / name / f"to{number}").symlink_to(tmp_path / other)
    (tmp_path / "itself").symlink_to("itself")
    found = walk(tmp_path)
    assert found.files == ("a/1", "b/2")
    assert found.passed_over == {TWICE: ("a/to0", "a/to1", "b/to0", "b/to1"), DANGLING: ("itself",)}


def test_links_to_other_places_are_followed_once(tmp_path):
    put(tmp_path, "other/1", "other/2", "single")
    root = tmp_path / "root"
    root.mkdir()
    for name in ("x", "y"):
        (root / name).symlink_to(tmp_path / "other")
    (root / "z").symlink_to(tmp_path / "single")
    found = walk(root)
    assert found.files == ("x/1", "x/2", "z")
    assert found.passed_over == {TWICE: ("y",)}


def test_a_file_with_two_names_is_found_once(tmp_path):
    put(tmp_path, "a/1", "b/2")
    os.link(tmp_path / "a" / "1", tmp_path / "b" / "again")
    found = walk(tmp_path)
    assert found.files == ("a/1", "b/2")
    assert found.passed_over == {TWICE: ("b/again",)}


def test_pipes_are_passed_over(tmp_path):
    put(tmp_path, "1")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    found = walk(tmp_path)
    assert (found.files, found.passed_over) == (("1",), {SPECIAL: ("pipe", "to_pipe"), DANGLING: ("gone",)})


def test_folders_that_cannot_be_opened_are_named(tmp_path, monkeypatch):
    put(tmp_path, "a/1", "closed/2")
    scan = os.scandir

    def guarded(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(module.os, "scandir", guarded)
    found = walk(tmp_path)
    assert (found.files, found.unreadable) == (("a/1",), {"closed": "Permission denied"})
    with pytest.raises(UserError, match=r"the folder .*closed cannot be opened: Permission denied"):
        walk(tmp_path / "closed")


@pytest.fixture
def deep(tmp_path):
    """A folder with 1,200 levels, which pytest could not remove."""
    (tmp_path / "shallow").write_text("x")
    for _ in range(1200):
        (tmp_path / "next").mkdir()
        if (tmp_path / "deep").exists():
            (tmp_path / "deep").rename(tmp_path / "next" / "deep")
        (tmp_path / "next").rename(tmp_path / "deep")
    yield tmp_path
    for _ in range(1200):
        if (tmp_path / "deep" / "deep").exists():
            (tmp_path / "deep" / "deep").rename(tmp_path / "next")
        (tmp_path / "deep").rmdir()
        if (tmp_path / "next").exists():
            (tmp_path / "next").rename(tmp_path / "deep")


def test_folders_may_be_deep(deep):
    """On most systems, paths of more than 4,096 bytes cannot be opened."""
    found = walk(deep)
    assert found.files == ("shallow",)
    (path,), (reason,) = zip(*found.unreadable.items(), strict=True)
    assert path.startswith("deep/deep/deep")
    assert reason == os.strerror(errno.ENAMETOOLONG)
    assert walk(deep / "/".join(["deep"] * 700)).files == ()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_the_state_of_the_kernel_is_not_data(tmp_path):
    assert walk(Path("/proc")).files == ()
    (tmp_path / "proc").symlink_to("/proc")
    assert walk(tmp_path).passed_over == {module.KERNEL: ("proc",)}


def test_there_is_a_limit(tmp_path, monkeypatch):
    put(tmp_path, *(f"{number}" for number in range(6)))
    monkeypatch.setattr(module, "MOST_ENTRIES", 5)
    with pytest.raises(UserError, match=r"has more than 5 files and folders: choose a smaller folder"):
        walk(tmp_path)
