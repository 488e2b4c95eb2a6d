"""What the flags of `diffcore sample` ask for."""

from pathlib import Path

import pytest

from diffcore.cli.sample import Options, asked_for
from diffcore.errors import UserError


def test_names_of_conditions_may_contain_an_equals_sign():
    options = Options(run=Path("run"), condition=("a=b=c", "a=x=y"), target=("logD=7.4=2..3",))
    assert asked_for(options, ("a", "a=b", "logD=7.4")) == {"a=b": "c", "a": "x=y", "logD=7.4": "2..3"}
    assert asked_for(Options(run=Path("run"), condition=("a=b=c",))) == {"a": "b=c"}


def test_labels_are_any_text():
    assert asked_for(Options(run=Path("run"), label=("a=b",))) == {"label": "a=b"}
    with pytest.raises(UserError, match=r"--condition 'cat': write it as key=value"):
        asked_for(Options(run=Path("run"), condition=("cat",)))
