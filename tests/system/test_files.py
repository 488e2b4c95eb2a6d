"""Reading and writing files of a run."""

import resource
from pathlib import Path

import pytest

from diffcore.errors import UserError
from diffcore.system.files import read_regular
from tests.support.measured import usage_of


def test_reading_takes_memory_for_the_file_and_not_for_what_is_allowed(tmp_path):
    """Under a limit on addresses, `file.read(most)` fails for any file."""
    path = tmp_path / "small"
    path.write_bytes(b"content")

    def read():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2**28
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return read_regular(path, 2**40).decode()

    assert usage_of(read).returned == "content"


def test_a_file_larger_than_allowed_is_refused(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(11))
    with pytest.raises(UserError, match="large has 11 bytes; at most 10 are read"):
        read_regular(path, 10)
