"""The pages of the reference are complete and up to date, and Markdown shows every docstring as it is written."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

NAMED = [
    name
    for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
]
CORE = ROOT / "diffcore"
TAG = re.compile(r"</?[a-zA-Z][^<>@ ]*( [^<>]*)?>")


def swallowed(text):
    """Parts of a text that Markdown takes for HTML tags and does not show."""
    return [found[0] for found in TAG.finditer(re.sub(r"`[^`]*`", "", text))]


def docstrings(source):
    """The docstrings of a module, its classes, functions and constants."""
    return [
        node.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


@pytest.mark.parametrize("name", NAMED)
def test_a_module_of_the_reference_exists_and_its_docstrings_are_shown(name):
    found = importlib.util.find_spec(name)
    assert found is not None
    assert not [tag for text in docstrings(Path(found.origin).read_text()) for tag in swallowed(text)]


def test_every_public_module_is_on_one_page():
    paths = [path.relative_to(CORE) for path in CORE.rglob("[!_]*.py")]
    public = [path.with_suffix("").parts for path in paths if path.parts[0] != "cli"]
    assert sorted(NAMED) == sorted(".".join(("diffcore", *parts)) for parts in public)


@pytest.fixture(scope="module")
def generator():
    """The script that writes the pages."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


def test_the_reference_is_up_to_date(generator):
    files = generator.files()
    stale = [path.name for path, text in files.items() if not path.exists() or path.read_text() != text]
    assert not stale, "run python docs/make_reference.py"
    assert not set((ROOT / "docs" / "reference").glob("*.md")) - files.keys()


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ('def f(a, /, b=1, *, c):\n    """Add a and b. More."""', [("f(a, b, *, c)", "Add a and b.")]),
        ('async def f(*a, **b):\n    """One\n    line."""', [("f(*a, **b)", "One line.")]),
        ('class C:\n    """Of Song et al. 2021, e.g. A. B."""', [("C", "Of Song et al. 2021, e.g. A.")]),
        ("class C:\n    a: int\n    _b: int", [("C", "Fields: `a`.")]),
        ('X = 1\n"""A number."""\nY: int = 2\n"""Another\none. More."""', [("X", "A number."), ("Y", "Another one.")]),
        ('def _f(): ...\n_X = 1\n"""Private."""\n@hookimpl\ndef diffcore_solvers(): ...', []),
    ],
)
def test_a_table_has_the_public_names_of_a_module(generator, source, rows):
    assert list(generator.public(ast.parse(source))) == rows


def test_modules_come_after_those_that_they_import(generator):
    names = [module.name for module in generator.modules("sampling.solvers")]
    assert names.index("sampling.solvers.step") < names.index("sampling.solvers.adams")


def test_a_tag_is_found_only_outside_of_code():
    assert swallowed("the inner product <g, d> of them") == ["<g, d>"]
    assert not swallowed("for i < j and j > i; the inner product `<g, d>`")
    assert docstrings('X = 1\n"""One <x>."""\n') == ["One <x>."]
