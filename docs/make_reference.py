"""Write the pages of docs/reference and their part of the menu in mkdocs.yml, from the docstrings of diffcore.

    python docs/make_reference.py

There is one page for each package of diffcore except `cli`, and one for the modules that are in no package. A
module has a heading, the first paragraph of its docstring, a table of its public functions, classes and constants with
the first sentence of each docstring, and the line from which mkdocstrings makes the full reference. The sources are
parsed with `ast`; nothing is imported. `tests/docs/test_reference.py` fails where a page is out of date.
"""

import ast
import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = ROOT / "diffcore"
PAGES = ROOT / "docs" / "reference"
MENU = ROOT / "mkdocs.yml"

ORDER = (
    "states", "system", "process", "denoising", "sampling", "likelihood", "plugins", "nn", "runs", "tasks",
    "evaluation", "training", "testing", "api",
)  # fmt: skip
"""The packages in the order of their imports, as in docs/design.md; a package that is not listed comes last."""

TOP_LEVEL = ("errors", "names")
"""The modules that are in no package, in the order of their page."""

LEFT_OUT = ("cli",)
"""Packages without a page: the command line has no public functions."""

TITLES = {
    "api": "Public functions",
    "nn": "Networks",
    "plugins.builtin": "Parts of the core",
    "sampling.inverse": "Inverse problems",
    "process.schedules": "Noise schedules",
    "sampling.guidance": "Guidance",
    "sampling.solvers": "Solvers",
    "testing.checks": "Checks of plugins",
}
"""Titles of pages that are not the name of their package."""

INDEX = """\
# Reference

The public modules of diffcore, one page for each package. A package imports only packages that stand above it, and a
module only modules that stand above it on its page; a folder inside a package counts as a part of it
([the design](../design.md#packages)). Names that begin with an underscore are private. Plugins are written against the
modules of [plugins](plugins.md), whose `API_VERSION` is the version of the hooks.

These pages are written by `python docs/make_reference.py`; do not edit them by hand. `mkdocs serve` shows every
signature and the whole of every docstring below each table.
"""


@dataclass(frozen=True)
class Module:
    """A module: its dotted name below `diffcore` and its source."""

    name: str
    path: Path

    @property
    def tree(self) -> ast.Module:
        """The parsed source."""
        return ast.parse(self.path.read_text())


@dataclass(frozen=True)
class Page:
    """A page: the name of its package below `diffcore`, empty for the modules in no package, and its modules."""

    package: str
    modules: tuple[Module, ...]

    @property
    def file(self) -> str:
        """The name of the page's file."""
        return f"{self.package.rpartition('.')[2] or 'diffcore'}.md"

    @property
    def title(self) -> str:
        """The heading of the page."""
        return TITLES.get(self.package, self.package.rpartition(".")[2].capitalize()) or "Top level"

    @property
    def about(self) -> str:
        """What the package owns: the first paragraph of the docstring of its `__init__`."""
        if not self.package:
            return "The modules that are in no package."
        return first_paragraph(ast.parse((CORE / self.package.replace(".", "/") / "__init__.py").read_text()))

    def text(self) -> str:
        """The page in Markdown."""
        parts = [f"# {self.title}\n\n{self.about}\n"]
        if reexported := public_names(CORE / self.package.replace(".", "/") / "__init__.py"):
            names = ", ".join(f"`{name}`" for name in reexported)
            dotted = ".".join(filter(None, ("diffcore", self.package)))
            parts.append(f"`{dotted}` exports {names}.\n")
        for module in self.modules:
            rows = [f"| `{name}` | {cell(said)} |" for name, said in public(module.tree)]
            table = "\n".join(["| name | description |", "|---|---|", *rows, ""]) if rows else ""
            head = f"## diffcore.{module.name}\n\n{first_paragraph(module.tree)}\n"
            parts += [head, table, f"::: diffcore.{module.name}\n"]
        return "\n".join(filter(None, parts))


def pages() -> list[Page]:
    """All pages, in the order of the packages; a package inside another follows it."""
    packages = [path.parent.relative_to(CORE) for path in CORE.rglob("__init__.py")]
    names = [".".join(path.parts) for path in packages if path.parts and path.parts[0] not in LEFT_OUT]

    def place(name: str) -> tuple[int, str]:
        top = name.partition(".")[0]
        return (ORDER.index(top) if top in ORDER else len(ORDER), name)

    return [Page("", modules("")), *(Page(name, modules(name)) for name in sorted(names, key=place))]


def modules(package: str) -> tuple[Module, ...]:
    """The public modules of a package, each after those of the package that it imports."""
    folder = CORE / package.replace(".", "/") if package else CORE
    prefix = f"{package}." if package else ""
    found = {path.stem: Module(prefix + path.stem, path) for path in folder.glob("[!_]*.py")}
    if not package:
        return tuple(found.pop(name) for name in [*TOP_LEVEL, *sorted(found.keys() - set(TOP_LEVEL))] if name in found)
    ordered: dict[str, Module] = {}

    def add(name: str) -> None:
        for needed in sorted(imported(found[name], found)):
            if needed not in ordered and needed != name:
                add(needed)
        ordered.setdefault(name, found[name])

    for name in sorted(found):
        add(name)
    return tuple(ordered.values())


def imported(module: Module, siblings: Iterable[str]) -> set[str]:
    """Which of its `siblings` the module imports when it is imported."""
    package = f"diffcore.{module.name.rpartition('.')[0]}"
    named = {f"{package}.{name}": name for name in siblings}
    found = set()
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            wanted = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        else:
            continue
        found |= {named[name] for name in wanted if name in named}
    return found


def public(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The public functions, classes and documented constants of a module, each with the first sentence about it."""
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not node.name.startswith("_") and not is_hook(node):
                yield call(node), first_sentence(first_paragraph(node)) or fields(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and is_text(following):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and not target.id.startswith("_"):
                    yield target.id, first_sentence(paragraph(following.value.value))  # type: ignore[union-attr]


def is_text(node: ast.stmt | None) -> bool:
    """Whether a statement is a string by itself, as those are that describe the constant above them."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_hook(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether a function implements a hook: its specification describes it."""
    return any(getattr(decorator, "id", "") == "hookimpl" for decorator in node.decorator_list)


def fields(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """The names of a class's fields, for a class without a docstring."""
    if not isinstance(node, ast.ClassDef):
        return ""
    targets = [statement.target for statement in node.body if isinstance(statement, ast.AnnAssign)]
    names = [f"`{target.id}`" for target in targets if isinstance(target, ast.Name) and not target.id.startswith("_")]
    return f"Fields: {', '.join(names)}." if names else ""


def call(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """A function's name with the names of its arguments; a class's name."""
    if isinstance(node, ast.ClassDef):
        return node.name
    given = node.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    if given.vararg:
        names.append(f"*{given.vararg.arg}")
    elif given.kwonlyargs:
        names.append("*")
    names += [argument.arg for argument in given.kwonlyargs]
    if given.kwarg:
        names.append(f"**{given.kwarg.arg}")
    return f"{node.name}({', '.join(names)})"


def public_names(init: Path) -> list[str]:
    """What a package exports by its `__all__`, where that is written out."""
    for node in ast.parse(init.read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]:
            with contextlib.suppress(ValueError):  # it is computed
                return sorted(ast.literal_eval(node.value), key=str.lower)
    return []


def first_paragraph(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The first paragraph of a docstring, as it is written; empty where there is none."""
    return paragraph(ast.get_docstring(node) or "", keep_lines=True)


def paragraph(text: str, keep_lines: bool = False) -> str:
    """The first paragraph of a text, in one line unless its lines are kept."""
    first = text.strip().split("\n\n")[0]
    return first if keep_lines else re.sub(r"\s+", " ", first)


_END = re.compile(r"(?<![\s(](?:al|eq|vs))(?<!e\.g)(?<!i\.e)[.!?](?=\s+[A-Z`(\[])")


def first_sentence(text: str) -> str:
    """The first sentence of a paragraph, in one line."""
    text = re.sub(r"\s+", " ", text)
    end = _END.search(text)
    return text[: end.end()] if end else text


def cell(text: str) -> str:
    """A text as a cell of a table."""
    return text.replace("|", "\\|")


def index() -> str:
    """The page that lists the others."""
    rows = []
    for page in pages():
        names = ", ".join(f"`{module.path.stem}`" for module in page.modules)
        rows.append(f"| [{page.title}]({page.file}) | {cell(paragraph(page.about))} | {names} |")
    return "\n".join([INDEX, "| page | what it is | modules |", "|---|---|---|", *rows, ""])


def menu() -> str:
    """mkdocs.yml with all pages below `Reference`, which is the last entry of the menu."""
    before, heading, _ = MENU.read_text().partition("  - Reference:\n")
    lines = ["      - reference/index.md", *(f"      - {page.title}: reference/{page.file}" for page in pages())]
    return before + heading + "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """Every file that is written here, with its content."""
    return {
        MENU: menu(),
        PAGES / "index.md": index(),
        **{PAGES / page.file: page.text() for page in pages()},
    }


def main() -> None:
    """Write all files, and delete pages of packages that no longer exist."""
    written = files()
    for path in PAGES.glob("*.md"):
        if path not in written:
            path.unlink()
    for path, text in written.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
