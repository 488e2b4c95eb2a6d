"""New plugin packages, out of the templates beside this file.

A template is a folder of files that end in `.template` and of a `template.toml` that tells of it; what all have in
common is in the folder `common`. In names and texts of files `__NAME__` and the like stand for what the author chose,
a form that means nothing in Python.

The template `sets` is a kind of data with any of the `FEATURES`. Lines between `#[mask]` and `#[end]` are written only
if `mask` is chosen, and a line that ends in `#[mask]` likewise; see `kept`.
"""

import keyword
import os
import re
import shutil
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata, resources, util
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import get_args

from diffcore.errors import UserError, did_you_mean
from diffcore.names import PluginKind
from diffcore.plugins.registry import Registry

KINDS: tuple[PluginKind, ...] = get_args(PluginKind)
"""The kinds of plugins that there are templates for."""

FEATURES: Mapping[str, str] = {
    "mask": "samples of varying size, with sizes and masks",
    "scalar": "a number that can be requested with --target, and an evaluator that measures it",
    "fields": "states of two fields, positions and categories",
}
"""What a new kind of data can be written with, and what each word means."""

_LONGEST = 30
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PLACEHOLDER = re.compile(r"__([A-Z]+)__")
_MARK = re.compile(r" *#\[([a-z ]+)\]$")
_SUFFIX = ".template"
_ABOUT = "template.toml"


@dataclass(frozen=True)
class Template:
    """The content of `template.toml`: the kind of `records` that the plugin offers, and what to try `next`.

    `about` begins the descriptions of the package. `serves` is the kind of data that a part is for unless asked
    otherwise, empty where that is not a question.
    """

    summary: str
    about: str
    records: str
    next: tuple[str, ...]
    serves: str = ""


def _folder(name: str) -> Traversable:
    return resources.files("diffcore.plugins").joinpath("templates", name)


def _template(kind: PluginKind, features: Collection[str]) -> Traversable:
    """The folder of the template for that kind of plugin: `sets` for a kind of data with features."""
    return _folder("sets" if features else kind)


def template_of(kind: PluginKind, features: Collection[str] = ()) -> Template:
    """What is known of the template for that kind of plugin, with some of the `FEATURES`."""
    text = _template(kind, features).joinpath(_ABOUT).read_text(encoding="utf-8")
    about = tomllib.loads(kept(text, features))
    return Template(**{**about, "next": tuple(about["next"])})


def read_features(text: str) -> frozenset[str]:
    """The features in a list such as `mask,scalar`. Raises `UserError` for a word that is none of the `FEATURES`."""
    words = [word for part in text.split(",") if (word := part.strip())]
    for word in words or [text]:
        if word not in FEATURES:
            raise UserError(
                f"`with` does not know {word!r}{did_you_mean(word, FEATURES)}; "
                f"write some of {', '.join(FEATURES)}, separated by commas"
            )
    return frozenset(words)


def check_name(name: str, records: str, registry: Registry, serves: str = "") -> None:
    """Raise `UserError` where no package, or no new record of that kind, can be called `name`."""
    if not name.isascii() or not _NAME.fullmatch(name):
        close = "-".join(re.findall(r"[a-z0-9]+", name.lower())).lstrip("0123456789-")
        hint = f"; perhaps {close!r}" if _NAME.fullmatch(close) else ""
        raise UserError(
            f"the name {name!r} must be of small letters, digits and single dashes, and begin with a letter{hint}"
        )
    if len(name) > _LONGEST:
        raise UserError(f"the name {name!r} has {len(name)} characters; take one of at most {_LONGEST}")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UserError(f"the name {name!r} is a word of Python's own; take another")
    offered = {record: provided.distribution for record, provided in getattr(registry, records).items()}
    if serves and serves in registry.modalities:
        modality = registry.modalities[serves]
        offered |= {part.name: modality.distribution for part in getattr(modality.record, records)}
    if name in offered:
        raise UserError(f"the name {name!r} is taken by {offered[name]}, which is installed; take another")
    package = _package(name)
    try:
        taken: str | None = f"the distribution {metadata.distribution(f'diffcore-{name}').name}"
    except metadata.PackageNotFoundError:
        taken = f"the module {package}" if util.find_spec(package) else None
    if taken:
        raise UserError(f"the name {name!r} is taken by {taken}, which is installed; take another")


def _package(name: str) -> str:
    return "diffcore_" + name.replace("-", "_")


def write_package(
    kind: PluginKind, name: str, out: Path, serves: str = "", features: Collection[str] = ()
) -> list[Path]:
    """Fill the template in and write it to the folder `out`, which must not exist; the files, relative to it.

    `features` are some of the `FEATURES`, for a kind of data. All of it or nothing is written.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} exists already: choose another `out`")
    values = {
        "NAME": name,
        "CLASS": "".join(part.capitalize() for part in name.split("-")),
        "MODULE": name.replace("-", "_"),
        "PACKAGE": _package(name),
        "SERVES": serves,
        "ABOUT": template_of(kind, features).about,
    }
    texts = _texts(_folder("common")) | _texts(_template(kind, features))
    files = {Path(filled(str(path), values)): filled(kept(text, features), values) for path, text in texts.items()}
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        for path, text in files.items():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).write_text(text, encoding="utf-8")
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sorted(files)


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with each `__WORD__` replaced; raises `KeyError` for a word that has no value."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)


def kept(text: str, features: Collection[str]) -> str:
    """The text of a template without the lines that belong to other features.

    A line `#[mask]` begins a block of lines that are kept if `mask` is among the features, and `#[end]` ends it. Blocks
    can be in blocks. A mark at the end of a line is about that line alone. Marks can be combined: `#[not mask]`,
    `#[mask and not fields]`, `#[mask or scalar]`. The marks themselves are removed.
    """
    lines, blocks = [], [True]
    for line in text.splitlines():
        mark = _MARK.search(line)
        if mark is None:
            lines += [line] * all(blocks)
        elif mark.start() > 0:
            lines += [line[: mark.start()]] * (all(blocks) and _holds(mark[1], features))
        elif mark[1] == "end":
            blocks.pop()
        else:
            blocks.append(_holds(mark[1], features))
    return "".join(f"{line}\n" for line in lines)


def _holds(mark: str, features: Collection[str]) -> bool:
    """Whether a mark such as `mask and not fields` is true of the features."""
    return any(
        all((term.removeprefix("not ") in features) != term.startswith("not ") for term in part.split(" and "))
        for part in mark.split(" or ")
    )


def _texts(folder: Traversable, below: Path = Path()) -> dict[Path, str]:
    """The template files under a folder, by their paths without the suffix."""
    texts: dict[Path, str] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            texts |= _texts(entry, below / entry.name)
        elif entry.name.endswith(_SUFFIX):
            texts[below / entry.name.removesuffix(_SUFFIX)] = entry.read_text(encoding="utf-8")
    return texts
