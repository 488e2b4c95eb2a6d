"""Threads that read pictures at the same time leave the filters of warnings, which they share, as they were."""

import threading
import warnings

from diffcore_image import stored


def test_the_filters_of_warnings_are_restored(tmp_path, monkeypatch):
    (tmp_path / "picture.png").touch()
    first_reads, second_reads, first_ends = threading.Event(), threading.Event(), threading.Event()

    def slowly(path):
        if threading.current_thread().name == "first":
            first_reads.set()
            second_reads.wait(0.2)
        else:
            second_reads.set()
            first_ends.wait(0.2)

    def read():
        stored.read(tmp_path / "picture.png")
        first_ends.set()

    monkeypatch.setattr(stored, "_read", slowly)
    before = list(warnings.filters)
    threads = [threading.Thread(target=read, name=name) for name in ("first", "second")]
    threads[0].start()
    assert first_reads.wait(5)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
