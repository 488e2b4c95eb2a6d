"""What `import diffcore` gives, and what it costs."""

import subprocess
import sys

import pytest

import diffcore as dc


def test_importing_it_imports_nothing_heavy():
    code = "import sys, diffcore; print(' '.join(sys.modules))"
    modules = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert not modules & {"torch", "numpy", "tensordict", "pydantic", "rich", "tyro", "pluggy"}


@pytest.mark.parametrize("name", dc.__all__)
def test_each_name_is_there_and_documented(name):
    assert getattr(dc, name).__doc__
    assert name in dir(dc)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="'diffcore' has no attribute 'smaple'"):
        dc.smaple  # noqa: B018
