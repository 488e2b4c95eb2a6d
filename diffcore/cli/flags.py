"""Flags: tyro reads them off the pydantic models; what it finds wrong becomes one line."""

import argparse
import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import tyro
from pydantic import ValidationError

from diffcore.errors import UserError
from diffcore.plugins.registry import Registry
from diffcore.runs.composing import (
    ADDITIONS,
    choices,
    chosen_parts,
    compose,
    kinds_of_choices,
    options_elsewhere,
    read_toml,
    tasks_for,
)
from diffcore.runs.inherited import data_of_first_stage, latent_run
from diffcore.runs.settings import RunSettings, explain
from diffcore.runs.suggestions import closest, options_of

Model = TypeVar("Model")


def parse(
    model: type[Model],
    arguments: Sequence[str],
    prog: str,
    description: str,
    default: Any = None,
    selectors: Sequence[str] = (),
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> Model:
    """The options that `arguments` give, laid on `default`. Raises `UserError` in one line.

    `selectors` are further flags of the command, which are suggested too, and `elsewhere` are options that exist for
    other choices, with what has to be chosen: `{"data.root": "--data folder"}`.
    """
    keywords = {} if default is None else {"default": default}

    def read() -> Model:
        # Options are explained by their descriptions alone. tyro would read the source of every class for comments.
        off = tyro.conf.HelptextFromCommentsOff
        return tyro.cli(model, args=list(arguments), prog=prog, description=description, config=(off,), **keywords)

    if _asks_for_help(arguments):
        return read()
    # tyro frames its messages for the terminal that it sees on standard output; away from one they are plain text.
    captured = io.StringIO()
    try:
        with _wide(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(captured):
            return read()
    except SystemExit as refusal:
        known = [*options_of(model), *selectors, *elsewhere]  # type: ignore[arg-type]
        if unknown := _unknown(captured.getvalue(), arguments):
            raise UserError(f"{_not_an_option(unknown, known, elsewhere)}; see {prog} --help") from None
        raise UserError(_one_line(captured.getvalue(), prog, refusal)) from None


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return "-h" in arguments or "--help" in arguments


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """Let tyro write messages without wrapping them."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


_PAIRS = re.compile(r"^Error parsing (?P<where>\S+): Failed to parse key-value pairs")
"""How tyro refuses the values of an option with names."""

_PYDANTIC = re.compile(r"^Error parsing (?P<where>\S+): \d+ validation errors? for \w+$")


def _one_line(panel: str, prog: str, refusal: BaseException) -> str:
    """tyro's message as one line: what is wrong, where, and the flag that was perhaps meant.

    It is a title and paragraphs, with rules of dashes between them.
    """
    lines = [text for line in panel.splitlines() if (text := line.strip()).strip("-")]
    if len(lines) < 2:
        return f"these options cannot be read; see {prog} --help"
    _title, first, *rest = lines
    if first.startswith("Missing from") and rest:
        return f"{rest[0].split()[0]} is missing; see {prog} --help"
    if found := _PYDANTIC.match(first):
        return _invalid_value(found["where"], refusal)
    if found := _PAIRS.match(first):
        return f"{found['where']} has a name without a value, or a value that is not of its kind; see {prog} --help"
    return f"{first[0].lower()}{first[1:].rstrip('.')}; see {prog} --help"


def _unknown(panel: str, arguments: Sequence[str]) -> str | None:
    """The first flag of the arguments that tyro does not know, or None if it refuses them for another reason."""
    if "nrecognized" not in panel:
        return None
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    told, _, _ = panel.partition("Perhaps you meant")  # flags that are known follow
    words = {word.strip(":,.`'\"") for word in told.replace("=", " ").split()}
    return next((flag for flag in flags if flag in words), None)


def _not_an_option(flag: str, known: Sequence[str], elsewhere: Mapping[str, str]) -> str:
    """What is wrong with an unknown flag: it needs another choice, or another flag was perhaps meant."""
    meant = closest(flag.removeprefix("--"), known)
    if meant is None:
        return f"{flag} is not an option"
    name = "--" + meant.replace("_", "-")
    if meant not in elsewhere and flag.replace("_", "-") == name:  # there is one, whose values no flags can write
        return f"{flag} is a table of values of any kind, which no flag can give; give it in TOML, or in Python"
    if meant not in elsewhere:
        return f"{flag} is not an option; perhaps you meant {name}"
    if flag.replace("_", "-") == name:
        return f"{flag} belongs to {elsewhere[meant]}"
    return f"{flag} is not an option; perhaps you meant {name}, which belongs to {elsewhere[meant]}"


def _invalid_value(where: str, refusal: BaseException | None) -> str:
    """pydantic's message about values of the table `where`, or about options that are in no table.

    tyro raises `SystemExit` while it handles what pydantic raised.
    """
    while refusal is not None and not isinstance(refusal, ValidationError):
        refusal = refusal.__context__
    if refusal is None:
        return "an option has a value that it cannot have"
    # A table is called as its flags are, what holds them all as its class.
    return explain(refusal, f"--{where}." if where.islower() else "--")


class _Selectors(argparse.ArgumentParser):
    """The flags that decide which other flags there are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def run_settings(arguments: Sequence[str], registry: Registry, prog: str) -> tuple[RunSettings, argparse.Namespace]:
    """Settings of a new run: default < preset < file < flag; and what is no part of them.

    That is the flags `out` and `config`, and `file`, the content of the configuration file.
    """
    selectors = _Selectors(prog=prog, add_help=False, allow_abbrev=False)
    kinds = kinds_of_choices(registry)
    for name in ("modality", "preset", "out", "config", "latent", *kinds):
        selectors.add_argument(f"--{name}")
    for name in ADDITIONS:
        selectors.add_argument(f"--{name}", action="append", default=[])
    chosen, rest = selectors.parse_known_args(list(arguments))
    file: Mapping[str, Any] = read_toml(Path(chosen.config)) if chosen.config else {}
    chosen.file = file
    origin = chosen.config or "the preset"
    modality = chosen.modality or file.get("modality")
    if modality is None:
        if _asks_for_help(arguments):
            print(_usage(registry, prog, None))
            raise SystemExit(0)
        names = ", ".join(registry.modalities) or "none is installed"
        raise UserError(f"--modality is missing; installed: {names}")
    named = {kind: name for kind in kinds if (name := getattr(chosen, kind)) is not None}
    added = {kind: getattr(chosen, kind) for kind in ADDITIONS}
    latent = {} if chosen.latent is None else {"latent": {"run": chosen.latent}}
    under = data_of_first_stage(latent_run(file, latent))
    settings = compose(registry, str(modality), chosen.preset, file, named, origin, added, latent, under)
    usage = _usage(registry, prog, str(modality), settings.task.name)  # type: ignore[attr-defined]
    known = ("modality", "preset", "out", "config", "latent", *kinds, *ADDITIONS)
    return changed_by(rest, settings, registry, prog, usage, known), chosen


def changed_by(
    flags: Sequence[str], settings: RunSettings, registry: Registry, prog: str, about: str, known: Sequence[str]
) -> RunSettings:
    """The settings with the options that flags give; `known` are other flags of the command, which are suggested."""
    settings = _one_limit(settings, flags)
    parts = {kind: str(part.name) for kind, part in chosen_parts(settings).items()}
    elsewhere = options_elsewhere(choices(registry.modality(settings.modality), registry, parts["task"]), parts)
    return parse(type(settings), flags, prog, about, settings, known, elsewhere)


def _one_limit(settings: RunSettings, flags: Sequence[str]) -> RunSettings:
    """`--train.steps` alone unsets the minutes that a preset or file gave, and the other way round."""
    given = {name for name in ("steps", "minutes") if any(re.match(rf"--train\.{name}(=|$)", flag) for flag in flags)}
    if len(given) != 1:
        return settings
    other = {"steps": "minutes", "minutes": "steps"}[given.pop()]
    return settings.model_copy(update={"train": settings.train.model_copy(update={other: None})})


def _usage(registry: Registry, prog: str, modality: str | None, task: str | None = None) -> str:
    """The selectors in words, for --help."""
    lines = [f"{prog} --modality NAME [--preset P] [--config FILE.toml] [--out DIR] [--latent RUN] [options]", ""]
    lines.append(f"--modality {{{','.join(registry.modalities)}}}  (or several, as NAME+NAME, for pairs of files)")
    if modality is not None:
        record = registry.modality(modality)
        lines += [f"--preset {{{','.join(record.presets)}}}"]
        offered = {**choices(record, registry, task), "task": tasks_for(record, registry)}
        lines += [f"--{kind} {{{','.join(part.name for part in parts)}}}" for kind, parts in offered.items()]
        lines += [
            f"--{kind} {{{','.join(part.name for part in parts)}}}  (any number of them)"
            for kind, kinds in ADDITIONS.items()
            if (parts := registry.offered(kinds, modality))
        ]
    else:
        lines.append("Name a modality to see its options: " + prog + " --modality NAME --help")
    return "\n".join(lines)
