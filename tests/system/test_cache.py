from pathlib import Path

from diffcore.system.cache import cache_folder


def test_the_cache_s_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("DIFFCORE_CACHE", "/kept/here")
    assert cache_folder() == Path("/kept/here")
    monkeypatch.delenv("DIFFCORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/kept")
    assert cache_folder() == Path("/kept/diffcore")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/diffcore")
