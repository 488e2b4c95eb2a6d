"""The pages of the reference: what they name exists, and reads as it was written."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

NAMED = [
    name
    for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
]
TAG = re.compile(r"</?[a-zA-Z][^<>@ ]*( [^<>]*)?>")


def swallowed(text):
    """What Markdown would take for tags of HTML in a text, and not show."""
    return [found[0] for found in TAG.finditer(re.sub(r"`[^`]*`", "", text))]


def docstrings(source):
    """The docstrings of a module, its classes and functions, and the strings that tell of its constants."""
    return [
        node.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


@pytest.mark.parametrize("name", NAMED)
def test_a_module_of_the_reference_exists_and_nothing_of_it_is_lost(name):
    found = importlib.util.find_spec(name)
    assert found is not None
    assert not [tag for text in docstrings(Path(found.origin).read_text()) for tag in swallowed(text)]


def test_no_module_is_told_of_twice():
    assert len(NAMED) == len(set(NAMED))


def test_tags_are_seen_outside_of_code_alone():
    assert swallowed("the inner product <g, d> of them") == ["<g, d>"]
    assert not swallowed("for i < j and j > i; the inner product `<g, d>`")
    assert docstrings('X = 1\n"""One <x>."""\n') == ["One <x>."]
