"""The structure of the code: imports between packages, words that the core does not use, and the folders of tests."""

import ast
import functools
import itertools
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "diffcore"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/*/plugin.py"))

ORDER = (
    *("errors", "names", "states", "system", "process", "denoising", "sampling", "likelihood"),
    *("plugins", "nn", "runs", "tasks", "evaluation", "training", "interop", "testing", "api", "demo", "cli"),
)
"""Each package may import only the packages before it."""
MATHEMATICS = ("states", "process", "denoising", "sampling", "likelihood")
INSIDES = ("runs", "tasks", "training", "testing", "api", "cli")
"""Packages that call plugins and that plugins must not import."""
FACADES = ("testing", "api")
"""Packages that may import every other package except the command line."""
MODALITIES = ("image", "audio", "molecul", "point ?cloud", "spectrogram")
MOST_ENTRIES, MOST_FILES = 22, 12


@dataclass(frozen=True)
class Import:
    """An import in the module `source`: of the module `target`, or of `name` in it; `within` a function or not."""

    source: str
    target: str
    name: str
    place: str
    within: bool


def modules():
    """The files of the core and of the plugins of this repository, by module name."""
    return {name: path for folder in (CORE, *PLUGINS) for name, path in modules_of(folder).items()}


@functools.cache
def modules_of(folder):
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_in(source, text, known, path=Path("file.py")):
    """All imports in a source text, including those in functions. `from package import module` imports the module."""

    def found(node, within):
        for child in ast.iter_child_nodes(node):
            place = f"{path}:{getattr(child, 'lineno', 0)}"
            if isinstance(child, ast.Import):
                yield from (Import(source, name.name, "", place, within) for name in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{place}: a relative import"
                for name in child.names:
                    full = f"{child.module}.{name.name}"
                    module, own = (full, "") if full in known else (str(child.module), name.name)
                    yield Import(source, module, own, place, within)
            yield from found(child, within or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    return list(found(ast.parse(text), within=False))


@functools.cache
def imports():
    known = modules()
    return [
        each
        for name, path in known.items()
        for each in imports_in(name, path.read_text(), known, path.relative_to(ROOT))
    ]


def package(module):
    """The package of a module, directly under diffcore; that of `diffcore` itself is `api`."""
    return module.split(".")[1] if "." in module else "api"


def rises(source, target):
    """Whether the package of `target` is not before that of `source`."""
    own, other = package(source), package(target)
    if own == other or own == "__main__":
        return False
    if own in FACADES:
        return other == "cli"
    return ORDER.index(own) <= ORDER.index(other)


def circles(edges):
    """The strongly connected components with more than one node (Tarjan 1972)."""
    numbers, lowest, stack, found, count = {}, {}, [], [], itertools.count()

    def visit(node):
        numbers[node] = lowest[node] = next(count)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in numbers:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], numbers[other])
        if lowest[node] == numbers[node]:
            start = stack.index(node)
            group, stack[start:] = stack[start:], []
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in numbers:
            visit(node)
    return found


def imported_by(*codes):
    """The modules that one process has loaded after each of `codes`, which run one after the other."""
    loaded = "print('\\n::', *sys.modules)"
    script = "\n".join(["import sys", *(f"{code}\n{loaded}" for code in codes)])
    printed = subprocess.check_output([sys.executable, "-c", script], text=True)
    return [set(line.split()[1:]) for line in printed.splitlines() if line.startswith("::")]


def importing(names):
    return f"import importlib\nfor name in {sorted(names)!r}: importlib.import_module(name)"


# What imports what


def test_every_package_is_in_the_order():
    assert {package(name) for name in modules_of(CORE) if name != "diffcore"} <= {*ORDER, "__main__"}


def test_packages_import_only_what_is_below_them():
    """Only `diffcore.plugins.builtin.commands` imports the modules of the command line by their names."""
    within = [each for each in imports() if each.source.startswith("diffcore.") and each.target in modules_of(CORE)]
    assert len(within) > 300
    assert not [f"{each.place}: {each.target}" for each in within if rises(each.source, each.target)]
    by_name = [path for path in modules_of(CORE).values() if re.search(r"[\"']diffcore\.cli\b", path.read_text())]
    assert [path for path in by_name if not path.is_relative_to(CORE / "cli")] == [CORE / "plugins/builtin/commands.py"]


def test_plugins_import_only_public_parts():
    reached = [each for each in imports() if each.source.startswith("diffcore_") and each.target in modules_of(CORE)]
    assert len(reached) > 80
    wrong = [each for each in reached if package(each.target) in INSIDES or each.name.startswith("_")]
    assert not [f"{each.place}: {each.target} {each.name}" for each in wrong]


def test_a_wrong_import_is_found():
    assert rises("diffcore.states.state", "diffcore.process.sde")
    assert rises("diffcore.training.loop", "diffcore.testing.checks")
    assert rises("diffcore.api", "diffcore.cli.train")
    assert rises("diffcore.runs.folder", "diffcore")
    assert not rises("diffcore.training.loop", "diffcore.runs.folder")
    assert not rises("diffcore.testing.suite", "diffcore.api")
    text = "def f():\n    from diffcore.runs import folder\n    import diffcore.api\n"
    found = imports_in("diffcore.states.state", text, {"diffcore.runs.folder"})
    assert [(each.target, each.within) for each in found] == [("diffcore.runs.folder", True), ("diffcore.api", True)]


def test_no_modules_import_each_other():
    """In the core and in each plugin. `diffcore/__init__.py` is left out because it imports on demand."""
    known = modules()
    edges = {name: set() for name in known}
    for each in imports():
        if each.target in known and not each.within and each.source != "diffcore":
            edges[each.source].add(each.target)
    assert not circles(edges)


def test_circles_are_found():
    assert circles({"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": [], "e": ["a"]}) == [["a", "b", "c"]]
    assert not circles({"a": ["b", "c"], "b": ["c"], "c": []})


@pytest.fixture(scope="module")
def loaded():
    """The modules loaded after the import of the mathematics, then of what draws samples, then of the whole core."""
    mathematics = [name for name in modules_of(CORE) if package(name) in MATHEMATICS]
    drawing = importing(["diffcore.api.run", "diffcore.api.tensors", "diffcore.cli.sample"])
    return imported_by(importing(mathematics), drawing, importing(set(modules_of(CORE)) - {"diffcore.__main__"}))


def test_the_mathematics_imports_mathematics(loaded):
    """No settings, files or registry; of third-party packages only torch, tensordict and numpy."""
    names = [name for name in modules_of(CORE) if package(name) in MATHEMATICS]
    files = {"io", "json", "os", "pathlib", "shutil", "tempfile", "tomllib"}
    allowed = sys.stdlib_module_names - files | {"torch", "tensordict", "numpy"}
    wrong = [
        f"{each.place}: {each.target}"
        for each in imports()
        if each.source in names
        if (
            package(each.target) not in (*MATHEMATICS, "errors", "names")
            if each.target.split(".")[0] == "diffcore"
            else each.target.split(".")[0] not in allowed
        )
    ]
    assert not wrong
    found, *_ = loaded
    assert not found & {"pydantic", "pluggy", "tyro", "rich", "safetensors", "filelock", "tomli_w"}
    own = {package(name) for name in found if name.startswith("diffcore.")}
    assert {*MATHEMATICS} <= own <= {*MATHEMATICS, "errors", "names"}


def test_the_core_imports_no_plugin_and_none_of_their_libraries(loaded):
    *_, found = loaded
    assert {name for name in modules_of(CORE) if name != "diffcore.__main__"} <= found
    plugins = {"PIL", "sklearn", "torchvision", "torchaudio", "rdkit", "e3nn", "pytorch3d"}
    assert not found & plugins
    assert not [name for name in found if name.startswith("diffcore_")]


def test_drawing_samples_imports_neither_the_compiler_nor_the_training_loop(loaded):
    """The compiler of PyTorch, which tensordict imports, takes as long as PyTorch; FSDP takes half of that."""
    _, found, _ = loaded
    assert "torch" in found
    assert not found & {"tensordict", "torch._dynamo", "torch.distributed.fsdp", "diffcore.training.loop"}


def test_the_help_of_every_command_appears_without_torch():
    call = "try: main([name, '--help'])\n    except SystemExit: pass"
    commands = (
        "train",
        "resume",
        "sample",
        "evaluate",
        "tune",
        "optimise",
        "export",
        "check-plugin",
        "new-plugin",
        "config",
        "plugins",
    )
    (found,) = imported_by(f"from diffcore.cli import main\nfor name in {commands}:\n    {call}")
    assert {f"diffcore.cli.{name.replace('-', '_')}" for name in commands} <= found
    assert not found & {"torch", "numpy", "tensordict", "rich"}


@pytest.mark.parametrize(
    "code",
    [
        "from diffcore.cli import main; main(['--help'])",
        "from diffcore.cli import main; main(['plugins'])",
        "from diffcore.cli import main; main(['--version'])",
        importing(f"{folder.name}.plugin" for folder in PLUGINS),
    ],
    ids=["help", "plugins", "version", "entry points"],
)
def test_help_and_listings_import_nothing_heavy(code):
    general = {"torch", "numpy", "PIL", "tensordict", "scipy", "rich", "tyro"}
    heavy = general | {"sklearn", "torchvision", "torchaudio", "soundfile", "rdkit", "e3nn", "trimesh"}
    (found,) = imported_by(code)
    assert not found & heavy


def test_a_configuration_is_shown_without_torch():
    (found,) = imported_by("from diffcore.cli import main; main(['config', '--modality', 'image'])")
    assert "diffcore.runs.settings" in found
    assert "torch" not in found


# What is written where


def test_the_core_names_no_modality():
    # Titles of papers, CSS properties and arguments of other libraries may contain these words.
    others = r"EDM for molecules|image-rendering|\.Image\(|encoded_image_string=|\bimage="
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line}"
        for path in modules_of(CORE).values()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(rf"\b({'|'.join(MODALITIES)})", re.sub(others, "", line), re.IGNORECASE)
    ]
    assert not found


def test_packages_have_a_docstring():
    """Its first line is a whole sentence that says what the package contains."""
    inits = [path for name, path in modules().items() if path.name == "__init__.py"]
    folders = {path.parent for path in modules().values()}
    assert folders == {path.parent for path in inits}
    said = {path: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0] for path in inits}
    assert not [str(path.relative_to(ROOT)) for path, line in said.items() if not re.fullmatch(r"[A-Z].{10,}\.", line)]


def test_folders_have_few_entries():
    """Few entries under diffcore; a plugin with more than a dozen files has subfolders."""
    assert len([path for path in CORE.iterdir() if path.name != "__pycache__"]) <= MOST_ENTRIES
    for folder in PLUGINS:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder
    assert {folder.parent for folder in PLUGINS} == {path for path in (ROOT / "plugins").iterdir() if path.is_dir()}


def test_tests_mirror_the_packages():
    """Each package and each plugin has a folder of tests, and there are no other folders with tests of code."""
    tests = ROOT / "tests"
    packages = {path.parent.name for path in CORE.glob("*/__init__.py")}
    folders = {path.parent.name for path in tests.glob("*/*.py")}
    plugins = {folder.parent.name for folder in PLUGINS}
    assert folders == packages | plugins | {"support", "benchmarks", "docs", "examples"}
    holding = {path.relative_to(tests).parts[0] for path in tests.glob("*/**/test_*.py")}
    assert holding == folders - {"support", "benchmarks"}
    alone = {path.name for path in tests.glob("*.py")} - {"__init__.py", "conftest.py", "test_architecture.py"}
    assert not [name for name in alone if not (CORE / name.removeprefix("test_")).is_file()]


def test_public_classes_and_types_of_a_package_have_different_names():
    """A page of the reference lists the names of a package, so one name must not mean two things."""
    places = {}
    library = {name: path for name, path in modules_of(CORE).items() if package(name) != "cli"}
    for name, path in library.items():
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node] if isinstance(node, ast.ClassDef) else []
            for found in (getattr(target, "id", getattr(target, "name", "")) for target in targets):
                if re.fullmatch(r"[A-Z]\w*[a-z]\w*", found):
                    places.setdefault((package(name), found), []).append(name)
    assert len(places) > 200
    assert not {key: where for key, where in places.items() if len(where) > 1}
