"""Compose the settings of a run from layers: the defaults, a preset, a file, and flags, in increasing precedence.

The settings contain the options of the chosen parts only.
"""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import tyro
from pydantic import create_model

from diffcore.errors import UserError
from diffcore.names import names_in
from diffcore.plugins.records import WORDS, Component, Modality, Settings, Task
from diffcore.plugins.registry import RECORDS, Registry, choose
from diffcore.runs.settings import RunSettings, validate
from diffcore.system.files import MOST_JSON, read_regular, require_shallow

ADDITIONS: Mapping[str, str] = {"metric": "metrics", "logger": "loggers"}
"""The parts of which a run can have any number, and their kinds in the registry: `[metric.NAME]`, `--metric NAME`."""


KINDS: Mapping[str, str] = {"data": "datasets", "text": "text_encoders"}
"""The kinds of the registry that choices are made from, where they are not called like the choice with an s."""


def kinds_of_choices(registry: Registry) -> tuple[str, ...]:
    """The parts of a run that are chosen by name, each with its own options: a run has one of the kinds of network."""
    networks = dict.fromkeys(task.network for task in tasks_for(None, registry))
    return ("task", "data", *networks, "text", "schedule")


def tasks_for(modality: Modality | None, registry: Registry) -> tuple[Task, ...]:
    """The tasks that a modality has networks for, or all tasks. The first is the default."""
    tasks: tuple[Any, ...] = registry.offered("tasks", None if modality is None else modality.name)
    return tuple(task for task in tasks if modality is None or networks_for(modality, registry, task))


def networks_for(modality: Modality, registry: Registry, task: Task) -> tuple[Component, ...]:
    """The networks that a run of this task can choose: those of the modality, of other plugins, and of the task."""
    kind = f"{task.network}s"
    offered = registry.offered(kind, modality.name) if kind in RECORDS else ()
    own = tuple(network for network in task.networks if network.serves(modality.name))
    return (*modality.networks_of(task.network), *offered, *own)


def autoencoders_for(modality: Modality, registry: Registry) -> tuple[Component, ...]:
    """The autoencoders of that kind of data: those that any task which makes latents can train."""
    tasks = (task for task in tasks_for(modality, registry) if "latent" in task.helps)
    found = {part.name: part for task in tasks for part in networks_for(modality, registry, task)}
    return tuple(found.values())


@cache
def _named(component: Component) -> type[Settings]:
    """The options of a component together with its fixed name."""
    name = component.name
    return create_model(
        component.options.__name__,
        __base__=component.options,
        __doc__=f"{name}: {component.summary}.",
        name=(Annotated[Literal[name], tyro.conf.Suppress], name),  # type: ignore[valid-type, arg-type]
    )


def choices(modality: Modality, registry: Registry, task: str | None = None) -> dict[str, tuple[Component, ...]]:
    """The components that are available for each choice of a run of the task, by default the first one.

    The first component of each is the default. Raises `UserError` if there is no such task, or no network for it.
    """
    tasks = registry.offered("tasks", modality.name)
    chosen: Any = choose(tasks, tasks[0].name if task is None else task, "task")
    if not (networks := networks_for(modality, registry, chosen)):
        raise UserError(f"the plugin for {modality.name} has no {chosen.network}")
    with_text = "text" in modality.facts.model_fields
    return {
        "task": (chosen, *(each for each in tasks if each is not chosen)),
        "data": modality.datasets + registry.offered("datasets", modality.name),
        chosen.network: networks,
        **({"text": registry.offered("text_encoders", modality.name)} if with_text else {}),
        "schedule": registry.offered("schedules", modality.name),
    }


def model_for(
    modality: Modality,
    chosen: Mapping[str, str],
    registry: Registry,
    added: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> type[RunSettings]:
    """The subclass of `RunSettings` for a run with the `chosen` and `added` components.

    It has the options of these components only.
    """
    fields: dict[str, Any] = {}
    for kind, offered in choices(modality, registry, chosen.get("task")).items():
        component = choose(offered, chosen.get(kind, offered[0].name), WORDS.get(kind, kind))
        options = _named(component)
        fields[kind] = (options, options())
    for kind, names in added.items():
        if names:
            fields[kind] = several(
                kind, [choose(registry.offered(ADDITIONS[kind], modality.name), n, kind) for n in names]
            )
    return create_model("Run", __base__=RunSettings, **fields)


def chosen_parts(settings: RunSettings) -> dict[str, Any]:
    """The options of the chosen parts of a run, with their names, by kind."""
    own = {*RunSettings.model_fields, *ADDITIONS}
    return {kind: getattr(settings, kind) for kind in type(settings).model_fields if kind not in own}


def several(kind: str, components: Sequence[Component]) -> tuple[type[Settings], Settings]:
    """A model with one field per component, the options of the component under its name, and its default instance."""
    fields: dict[str, Any] = {component.name: (component.options, component.options()) for component in components}
    table = create_model(kind, __base__=Settings, __doc__=f"The options of each {kind}.", **fields)
    return table, table()


def additions(settings: RunSettings, kind: str) -> dict[str, Settings]:
    """The options of the chosen parts of one kind of `ADDITIONS`, by name of the part."""
    table = getattr(settings, kind, None)
    return {} if table is None else {name: getattr(table, name) for name in type(table).model_fields}


def with_options(parts: str | Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Parts by name with the options of each, of parts that are given by name or by name with their options."""
    return dict(parts) if isinstance(parts, Mapping) else {name: {} for name in names_in(parts)}


def compose(
    registry: Registry,
    modality_name: str,
    preset: str | None = None,
    file: Mapping[str, Any] | None = None,
    chosen: Mapping[str, str] | None = None,
    origin: str = "the configuration",
    added: Mapping[str, Sequence[str]] = MappingProxyType({}),
    over: Mapping[str, Any] = MappingProxyType({}),
    under: Mapping[str, Any] = MappingProxyType({}),
) -> RunSettings:
    """The settings from the defaults, the preset, `under`, `file` and `over`, where later layers take precedence.

    The names of components in `chosen` and `added` come from flags and take precedence over all layers. A layer may
    have a text in place of some tables (`SHORT`). `under` is what a first stage brings, its data set. Without `preset`,
    it is `latent` for a run in latents, or else that with the name of the chosen data set, if there are such ones, and
    otherwise `default`. `origin` is the source of the values in error messages.

    Options in the preset belong to the part that the preset names, or else to the default one. If another part is
    chosen, they are not used. Options in `file` and `over` without the name of a part belong to the chosen part.

    Raises `UserError` for names, keys and values that do not exist or do not fit.
    """
    modality = registry.modality(modality_name)
    chosen = dict(chosen or {})
    kinds = kinds_of_choices(registry)
    file, over = _with_tables(file or {}), _with_tables(over)
    _check_shape(file, origin, kinds)
    _check_shape(over, origin, kinds)
    wanted = chosen.get("data") or _name_in([under, file], "data")
    named = next((name for name in (LATENT if under else None, wanted) if name in modality.presets), None)
    preset = str(preset or file.get("preset") or named or "default")
    if preset not in modality.presets:
        raise UserError(f"unknown preset {preset!r} for {modality.name}; there are: {', '.join(modality.presets)}")
    recipe = _with_tables(modality.presets[preset].values)
    layers: list[Mapping[str, Any]] = [recipe, under, file, over]
    names = {kind: name for kind in kinds if (name := chosen.get(kind) or _name_in(layers, kind)) is not None}
    offered = choices(modality, registry, names.get("task"))
    task = names.setdefault("task", offered["task"][0].name)
    for kind in chosen:
        if kind not in offered:
            own, every = ([t.name for t in tasks_for(m, registry) if t.network == kind] for m in (modality, None))
            owners = " or ".join(own or every)
            raise UserError(f"`{kind}` belongs to `task` {owners}, and the task of this run is {task}")
    defaults = {kind: parts[0].name for kind, parts in offered.items()}
    defaults["task"] = registry.offered("tasks", modality.name)[0].name
    if preset == wanted:
        defaults["data"] = preset
    # A preset may have the options of the network of another task.
    layers[0] = _named_parts({k: value for k, value in recipe.items() if k not in kinds or k in offered}, defaults)
    names = {kind: name for kind in names if (name := chosen.get(kind) or _name_in(layers, kind)) is not None}
    names |= {"task": task}
    values: dict[str, Any] = {}
    for layer in layers:
        values = merge(values, _only_for(layer, names, offered))
    for kind, name in names.items():
        values[kind] = {**values.get(kind, {}), "name": name}
    values |= {"modality": modality.name, "preset": preset}
    several_of = {}
    for kind in ADDITIONS:
        table = values.pop(kind, {}) or {}
        if table := {name: {} for name in added.get(kind, ())} | dict(table):
            values[kind], several_of[kind] = table, tuple(table)
    chosen_names = {kind: names.get(kind, parts[0].name) for kind, parts in offered.items()}
    elsewhere = options_elsewhere(offered, chosen_names)
    return validate(model_for(modality, names, registry, several_of), values, origin, elsewhere)


LATENT = "latent"
"""The preset of a kind of data for its latents, where it has one."""

SHORT = {"task": "name", "latent": "run"}
"""Tables that a layer may give by the text of one option: `task = "classify"`, `latent = "FOLDER"`."""


def _with_tables(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer with tables in place of the texts of `SHORT`."""
    own = {kind: {option: layer[kind]} for kind, option in SHORT.items() if isinstance(layer.get(kind), str)}
    return {**layer, **own}


def _named_parts(preset: Mapping[str, Any], defaults: Mapping[str, str]) -> dict[str, Any]:
    """The values of a preset, in which options without the name of a part have the name of the default one."""
    return {
        key: {"name": defaults[key], **value} if key in defaults and isinstance(value, Mapping) else value
        for key, value in preset.items()
    }


def options_elsewhere(offered: Mapping[str, Sequence[Component]], chosen: Mapping[str, str]) -> dict[str, str]:
    """The options of parts that are not chosen, `data.root`, with what has to be chosen for each, "`data` folder"."""
    own = {
        f"{kind}.{field}"
        for kind, parts in offered.items()
        for part in parts
        if part.name == chosen.get(kind)
        for field in part.options.model_fields
    }
    found: dict[str, list[str]] = {}
    for kind, parts in offered.items():
        for part in parts:
            for field in part.options.model_fields:
                found.setdefault(f"{kind}.{field}", []).append(f"`{kind}` {part.name}")
    return {name: " or ".join(parts) for name, parts in found.items() if name not in own}


def _check_shape(file: Mapping[str, Any], origin: str, kinds: Sequence[str]) -> None:
    """Raise `UserError` for values that cannot be merged with a preset. Pydantic checks the rest."""
    if not isinstance(file.get("preset", ""), str):
        raise UserError(f"{origin}: preset: input should be a name (it is {file['preset']!r})")
    for kind in (*kinds, *ADDITIONS, "latent", "train", "sample"):
        if not isinstance(file.get(kind, {}), Mapping):
            raise UserError(f"{origin}: {kind}: input should be a table, as in [{kind}] (it is {file[kind]!r})")


def _name_in(layers: list[Mapping[str, Any]], kind: str) -> str | None:
    for layer in reversed(layers):
        part = layer.get(kind)
        if isinstance(part, Mapping) and "name" in part:
            return str(part["name"])
    return None


def _only_for(
    layer: Mapping[str, Any], names: Mapping[str, str], choices: Mapping[str, tuple[Component, ...]]
) -> dict[str, Any]:
    """`layer` without the options of components that a later layer replaces. Options without a name are kept."""
    kept = dict(layer)
    for kind, offered in choices.items():
        chosen = names.get(kind, offered[0].name)
        part = layer.get(kind)
        if isinstance(part, Mapping) and part.get("name", chosen) != chosen:
            kept.pop(kind)
    return kept


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated with `over`, recursively.

    The options that end training, `steps` and `minutes`, replace each other. Those of a solver belong to its name, so
    another solver does not get them.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            if key == "train" and ENDS & value.keys():
                below = {name: kept for name, kept in below.items() if name not in ENDS}
            if key == "solver" and value.get("name", below.get("name")) != below.get("name"):
                below = {}
            value = merge(below, value)
        merged[key] = value
    return merged


ENDS = frozenset({"steps", "minutes"})
"""The options of `train` that determine when training ends."""


def as_toml(settings: RunSettings) -> str:
    """Settings as TOML that `read_toml` can read. Values that are None are omitted."""
    import tomli_w

    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file. Raises `UserError` with the position of a syntax error."""
    try:
        values = tomllib.loads(read_regular(path.resolve(), MOST_JSON).decode())
        require_shallow(values)
        return values
    except FileNotFoundError:
        raise UserError(f"no configuration file {path}") from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}") from None
