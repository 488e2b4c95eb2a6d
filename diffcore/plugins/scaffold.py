"""New plugin packages, out of the templates beside this file.

A template is a folder of files that end in `.template` and of a `template.toml` that tells of it; what all have in
common is in the folder `common`. In names and texts of files `__NAME__` and the like stand for what the author chose,
a form that means nothing in Python.
"""

import keyword
import os
import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, resources, util
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import get_args

from diffcore.errors import UserError
from diffcore.names import PluginKind
from diffcore.plugins.registry import Registry

KINDS: tuple[PluginKind, ...] = get_args(PluginKind)
"""The kinds of plugins that there are templates for."""

_LONGEST = 30
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PLACEHOLDER = re.compile(r"__([A-Z]+)__")
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


def _folder(kind: str) -> Traversable:
    return resources.files("diffcore.plugins").joinpath("templates", kind)


def template_of(kind: PluginKind) -> Template:
    """What is known of the template for that kind of plugin."""
    about = tomllib.loads(_folder(kind).joinpath(_ABOUT).read_text(encoding="utf-8"))
    return Template(**{**about, "next": tuple(about["next"])})


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


def write_package(kind: PluginKind, name: str, out: Path, serves: str = "") -> list[Path]:
    """Fill the template in and write it to the folder `out`, which must not exist; the files, relative to it.

    All of it or nothing is written.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} exists already: choose another `out`")
    values = {
        "NAME": name,
        "CLASS": "".join(part.capitalize() for part in name.split("-")),
        "MODULE": name.replace("-", "_"),
        "PACKAGE": _package(name),
        "SERVES": serves,
        "ABOUT": template_of(kind).about,
    }
    texts = _texts(_folder("common")) | _texts(_folder(kind))
    files = {Path(filled(str(path), values)): filled(text, values) for path, text in texts.items()}
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


def _texts(folder: Traversable, below: Path = Path()) -> dict[Path, str]:
    """The template files under a folder, by their paths without the suffix."""
    texts: dict[Path, str] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            texts |= _texts(entry, below / entry.name)
        elif entry.name.endswith(_SUFFIX):
            texts[below / entry.name.removesuffix(_SUFFIX)] = entry.read_text(encoding="utf-8")
    return texts
