"""Flags that choose parts by name: they come first, as only the options of the chosen parts exist."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_origin

from pydantic import create_model

from diffcore.cli.flags import parse
from diffcore.errors import UserError
from diffcore.plugins.records import Component, Settings
from diffcore.plugins.registry import Registry, choose
from diffcore.runs.composing import options_elsewhere, several

ONE = {"solver": "solvers", "schedule": "schedules"}
"""Flags that choose one part, with the kind of the registry that they choose from."""

MANY = {"metric": "metrics"}
"""Flags that choose any number of parts, likewise."""

GUIDE = "guide"
"""The flag that adds a guidance to a list. The options of each follow it: `--guide NAME --guide.OPTION VALUE`."""


@dataclass(frozen=True)
class Chosen:
    """What flags say: the options, and the parts that they choose with options of their own."""

    options: Any
    one: Mapping[str, Component] = field(default_factory=dict)
    many: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    listed: tuple[tuple[str, Component], ...] = ()

    @property
    def guides(self) -> list[dict[str, Any]]:
        """The name and the options of each guidance, in the order in which they are given."""
        return [{"name": part.name, **getattr(self.options, own).model_dump()} for own, part in self.listed]

    def part(self, flag: str) -> dict[str, Any] | None:
        """The name and the options of the part that the flag chooses, or None."""
        return {"name": self.one[flag].name, **getattr(self.options, flag).model_dump()} if flag in self.one else None

    def parts(self, flag: str) -> list[dict[str, Any]]:
        """The name and the options of each part that the flag chooses."""
        names = self.many.get(flag, ())
        return [{"name": name, **getattr(getattr(self.options, flag), name).model_dump()} for name in names]


def read(
    model: type[Settings],
    arguments: Sequence[str],
    registry: Registry,
    prog: str,
    about: str,
    one: Sequence[str] = ("solver", "schedule"),
    many: Sequence[str] = (),
) -> Chosen:
    """Read flags; `one` and `many` are the flags among `ONE` and `MANY` that the command has, besides `GUIDE`."""
    rest, listed = take_guides(_short(arguments), registry)
    parts, added = {}, {}
    for flag in one:
        rest, name = take(rest, flag)
        if name is not None:
            parts[flag] = choose(registry.offered(ONE[flag]), name, flag)
    for flag in many:
        rest, names = take_all(rest, flag)
        added[flag] = tuple(dict.fromkeys(names))
    for flag in one:
        about += f"\n--{flag} {{{','.join(getattr(registry, ONE[flag]))}}}"
        about += "" if flag in parts else f"\n    its options: {prog} RUN --{flag} NAME --help"
    about += f"\n--guide {{{','.join(registry.guidance)}}}  (a list: each applies to those before)"
    about += "" if listed else f"\n    its options follow it: {prog} RUN --guide NAME --help"
    for flag in many:
        if names := getattr(registry, MANY[flag]):
            about += f"\n--{flag} {{{','.join(names)}}}  (any number of them)"
    fields: dict[str, Any] = {flag: (part.options, part.options()) for flag, part in parts.items()}
    fields |= {own: (part.options, ...) for own, part in listed}
    for flag, chosen in added.items():
        if chosen:
            fields[flag] = several(flag, [choose(registry.offered(MANY[flag]), name, flag) for name in chosen])
    offered = {flag: registry.offered(ONE[flag]) for flag in one}
    elsewhere = options_elsewhere(offered, {flag: part.name for flag, part in parts.items()})
    chosen_model = create_model(model.__name__, __base__=model, **fields)
    try:
        options = parse(chosen_model, rest, prog, about, None, (*one, *many, GUIDE), elsewhere)
    except UserError as error:
        raise UserError(re.sub(r"--guide-\d+\.", "--guide.", str(error))) from None
    return Chosen(options, parts, added, listed)


def _short(arguments: Sequence[str]) -> list[str]:
    """`--sample.steps`, as `diffcore train` has it, is `--steps` in the commands that only sample."""
    return [f"--{a.removeprefix('--sample.')}" if a.startswith("--sample.") else a for a in arguments]


def take_guides(arguments: Sequence[str], registry: Registry) -> tuple[list[str], tuple[tuple[str, Component], ...]]:
    """The arguments without `--guide NAME`, and the records that are named, in order.

    Each record comes with the prefix under which its options are parsed: `guide` for the first, then `guide_2` and so
    on. The flags `--guide.OPTION` that follow a name get its prefix. The values of an option with names, NAME=VALUE,
    become two arguments.
    """
    rest: list[str] = []
    listed: list[tuple[str, Component]] = []
    words, pairs = iter(arguments), False
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == f"--{GUIDE}":
            name = value if equals else next(words, None)
            if name is None:
                raise UserError("--guide needs a value")
            prefix = GUIDE if not listed else f"{GUIDE}_{len(listed) + 1}"
            listed.append((prefix, choose(registry.offered("guidance"), name, GUIDE)))
        elif flag.startswith(f"--{GUIDE}."):
            if not listed:
                raise UserError(f"{flag} needs --guide NAME before it")
            prefix, part = listed[-1]
            option = flag.removeprefix(f"--{GUIDE}.")
            info = part.options.model_fields.get(option.replace("-", "_"))
            pairs = info is not None and get_origin(info.annotation) is dict
            own = f"--{prefix.replace('_', '-')}.{option}"
            rest += [own, *value.split("=", 1)] if pairs and equals else [own + equals + value]
        elif pairs and equals and not word.startswith("--"):
            rest += [flag, value]
        else:
            pairs = pairs and not word.startswith("--")
            rest.append(word)
    return rest, tuple(listed)


def take(arguments: Sequence[str], name: str) -> tuple[list[str], str | None]:
    """The arguments without the flag `name`, and its value where it is there."""
    arguments = list(arguments)
    for position, argument in enumerate(arguments):
        if argument == f"--{name}":
            if position + 1 == len(arguments):
                raise UserError(f"--{name} needs a value")
            return arguments[:position] + arguments[position + 2 :], arguments[position + 1]
        if argument.startswith(f"--{name}="):
            return arguments[:position] + arguments[position + 1 :], argument.partition("=")[2]
    return arguments, None


def take_table(arguments: Sequence[str], table: str) -> tuple[list[str], dict[str, str]]:
    """The arguments without flags `--TABLE.NAME VALUE`, and their values by name."""
    arguments, found, start = list(arguments), {}, f"--{table}."
    for flag in dict.fromkeys(a.partition("=")[0] for a in arguments if a.startswith(start)):
        arguments, value = take(arguments, flag.removeprefix("--"))
        found[flag.removeprefix(start).replace("-", "_")] = str(value)
    return arguments, found


def take_all(arguments: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """The arguments without any flag `name`, and its values."""
    values: list[str] = []
    while True:
        arguments, value = take(arguments, name)
        if value is None:
            return list(arguments), values
        values.append(value)
