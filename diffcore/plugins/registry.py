"""Finding plugins, and explaining those that cannot be used.

One broken plugin never stops another: whatever goes wrong while an entry point is loaded, or while one of its
records is looked at, becomes a `Failure` with the distribution's name and the reason.
"""

import inspect
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from typing import Any, TypeVar

import pluggy

from diffcore.errors import RAISED_BY_PLUGINS, UserError, did_you_mean, first_line
from diffcore.plugins import builtin, hookspecs
from diffcore.plugins.joint.record import SIGN, joint_modality
from diffcore.plugins.records import API_VERSION, Command, Component, ExportFormat, Modality, Settings, Task, missing

CHOICE = "DIFFCORE_PLUGINS"
"""The environment variable that names the plugins to load, by their entry points: `a,b`; empty: none; unset: all."""

RECORDS: dict[str, type[Modality | Component | Command | ExportFormat]] = {
    "modalities": Modality,
    "datasets": Component,
    "denoisers": Component,
    "classifiers": Component,
    "autoencoders": Component,
    "tasks": Task,
    "schedules": Component,
    "solvers": Component,
    "guidance": Component,
    "text_encoders": Component,
    "metrics": Component,
    "loggers": Component,
    "export_formats": ExportFormat,
    "commands": Command,
}
"""The kinds of records, each offered by the hook `diffcore_<kind>`, in the order in which they are looked at."""

CONTRACTED = {
    "solver": "solvers",
    "schedule": "schedules",
    "guidance": "guidance",
    "metric": "metrics",
    "logger": "loggers",
    "task": "tasks",
    "text-encoder": "text_encoders",
}
"""The kinds of parts that `diffcore check-plugin` holds to a contract of their own, and their names in `RECORDS`."""


@dataclass(frozen=True)
class Failure:
    """A plugin, or one of its records, that cannot be used."""

    plugin: str
    distribution: str
    reason: str


@dataclass(frozen=True)
class Provided:
    """A record, with the distribution it comes from."""

    record: Any
    distribution: str
    version: str


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


@dataclass
class Registry:
    """Everything that is installed, by kind and name; `plugins` are those that can be used, for the hooks of runs."""

    modalities: dict[str, Provided] = field(default_factory=dict)
    datasets: dict[str, Provided] = field(default_factory=dict)
    denoisers: dict[str, Provided] = field(default_factory=dict)
    classifiers: dict[str, Provided] = field(default_factory=dict)
    autoencoders: dict[str, Provided] = field(default_factory=dict)
    tasks: dict[str, Provided] = field(default_factory=dict)
    schedules: dict[str, Provided] = field(default_factory=dict)
    solvers: dict[str, Provided] = field(default_factory=dict)
    guidance: dict[str, Provided] = field(default_factory=dict)
    text_encoders: dict[str, Provided] = field(default_factory=dict)
    metrics: dict[str, Provided] = field(default_factory=dict)
    loggers: dict[str, Provided] = field(default_factory=dict)
    export_formats: dict[str, Provided] = field(default_factory=dict)
    commands: dict[str, Provided] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    plugins: pluggy.PluginManager = field(default_factory=_manager)
    _made: dict[str, Provided] = field(default_factory=dict, repr=False, compare=False)

    def modality(self, name: str) -> Modality:
        """The modality `name`, or a `UserError` that lists what there is, what failed and what could be installed."""
        return self.provided(name).record  # type: ignore[no-any-return]

    def provided(self, name: str) -> Provided:
        """The modality `name` with the distribution it comes from; for a joint one, the distributions of its parts."""
        if name in self.modalities:
            return self.modalities[name]
        if SIGN in name:
            return self._joint(name)
        extras = {command.partition("[")[2].partition("]")[0]: command for command in self.installable()}
        if name in extras:
            raise UserError(f"the plugin for {name} is not installed; install it with: {extras[name]}")
        raise UserError(
            f"unknown modality {name!r}{did_you_mean(name, [*self.modalities, *extras])}; "
            f"installed: {_listed(self.modalities)}"
            + "".join(f"; failed: {f.plugin} ({f.reason})" for f in self.failures)
            + "".join(f"; could be installed: {c}" for c in [", ".join(extras.values())] if c)
        )

    def _joint(self, name: str) -> Provided:
        """The modality that is made of others, which are named with a `+` between them."""
        if name not in self._made:
            parts = [self.provided(part.strip()) for part in name.split(SIGN)]
            distributions = " and ".join(dict.fromkeys(part.distribution for part in parts))
            versions = " and ".join(dict.fromkeys(part.version for part in parts))
            self._made[name] = Provided(joint_modality([part.record for part in parts]), distributions, versions)
        return self._made[name]

    def schedule(self, name: str) -> Component:
        """The schedule `name`, or a `UserError` with the names that exist."""
        return choose(self.offered("schedules"), name, "schedule")

    def solver(self, name: str) -> Component:
        """The solver `name`, or a `UserError` with the names that exist."""
        return choose(self.offered("solvers"), name, "solver")

    def task(self, name: str) -> Task:
        """The task `name`, or a `UserError` with the names that exist."""
        task = choose(self.offered("tasks"), name, "task")
        assert isinstance(task, Task)  # `RECORDS` says so
        return task

    def export_format(self, name: str) -> ExportFormat:
        """The export format `name`, or a `UserError` with the names that exist or with what has to be installed."""
        return choose([provided.record for provided in self.export_formats.values()], name, "format")

    def offered(self, kind: str, modality: str | None = None) -> tuple[Component, ...]:
        """The components of that kind, in the words of `RECORDS`; those for the kind of data `modality` where given."""
        records = (provided.record for provided in getattr(self, kind).values())
        return tuple(record for record in records if modality is None or record.serves(modality))

    def installable(self) -> list[str]:
        """Commands for the plugins that this distribution names as extras and that are not here."""
        try:
            extras = metadata.metadata("diffcore").get_all("Provides-Extra") or []
        except metadata.PackageNotFoundError:
            return []
        known = {*self.modalities, *(failure.plugin for failure in self.failures), *NOT_PLUGINS}
        return [f"pip install 'diffcore[{extra}]'" for extra in extras if extra not in known]


NOT_PLUGINS = frozenset({"docs", "onnx", "parquet", "tensorboard", "trackio", "wandb", "webdataset"})
"""Extras of this distribution that are no kinds of data."""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


Record = TypeVar("Record", Component, ExportFormat)


def choose(offered: Iterable[Record], name: str, kind: str) -> Record:
    """The record of that name among `offered`.

    Raises `UserError` if there is none, with the names that exist, or if modules that it needs are not installed.
    """
    by_name = {component.name: component for component in offered}
    if name not in by_name:
        raise UserError(f"unknown {kind} {name!r}{did_you_mean(name, by_name)}; there are: {_listed(by_name)}")
    if lacking := missing(by_name[name]):
        install = by_name[name].install
        advice = f"; install them with: {install}" if install else ""
        raise UserError(f"the {kind} {name!r} needs modules that are not installed: {', '.join(lacking)}{advice}")
    return by_name[name]


def _distribution(entry_point: metadata.EntryPoint) -> tuple[str, str]:
    return (entry_point.dist.name, entry_point.dist.version) if entry_point.dist else ("unknown", "0")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}".rstrip(": ")


def load(entry_points: Iterable[metadata.EntryPoint]) -> Registry:
    """Load each entry point by itself and collect the records of those that are sound.

    They are loaded in the order of the names of their distributions, so that which of two parts of one name is used
    does not depend on the order of Python's search path. The other is a `Failure` that names the first.
    """
    registry = Registry()
    _add_plugin(registry, builtin, "diffcore", metadata_version("diffcore"), "diffcore")
    for entry_point in sorted(entry_points, key=lambda point: (_distribution(point)[0], point.name)):
        distribution, version = _distribution(entry_point)
        try:
            _add_plugin(registry, entry_point.load(), entry_point.name, version, distribution)
        except UnusablePluginError as error:
            registry.failures.append(Failure(entry_point.name, distribution, str(error)))
        except RAISED_BY_PLUGINS as error:  # importing a plugin may raise anything
            registry.failures.append(Failure(entry_point.name, distribution, _reason(error)))
    _refuse_shadows(registry)
    return registry


def metadata_version(distribution: str) -> str:
    """The installed version of a distribution, or `unknown`."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


class UnusablePluginError(Exception):
    """Why a plugin as a whole cannot be used."""


def _add_plugin(registry: Registry, plugin: Any, name: str, version: str, distribution: str) -> None:
    """Check one plugin in a manager of its own, so that what is wrong with it stays with it; then take its records."""
    made_for = getattr(plugin, "API_VERSION", None)
    if str(made_for) == str(API_VERSION) and made_for != API_VERSION:
        kind = type(made_for).__name__
        raise UnusablePluginError(f"API_VERSION is {made_for!r}, a {kind}: write API_VERSION = {API_VERSION}, a number")
    if made_for != API_VERSION or isinstance(made_for, bool):
        said = "does not say for which version of the plugin API it was made" if made_for is None else (
            f"was made for version {made_for!r} of the plugin API"
        )  # fmt: skip
        raise UnusablePluginError(f"{said}; this diffcore has API_VERSION = {API_VERSION}")
    hash(plugin)  # pluggy keeps plugins in sets
    manager = _manager()
    if unmarked := _unmarked(plugin):
        raise UnusablePluginError(f"{', '.join(unmarked)} is not marked with @hookimpl, so it offers nothing")
    manager.register(plugin, name)
    manager.check_pending()
    offered = {kind: _records(manager, kind) for kind in RECORDS}  # all of them before any is taken
    for kind, records in offered.items():
        taken = getattr(registry, kind)
        for record in records:
            reason = _unusable(record, RECORDS[kind], taken, distribution)
            if reason:
                registry.failures.append(Failure(f"{name}: {getattr(record, 'name', record)}", distribution, reason))
            else:
                taken[record.name] = Provided(record, distribution, version)
    registry.plugins.register(plugin, f"{distribution}: {name}")


def _unmarked(plugin: Any) -> list[str]:
    """The functions of a plugin's module that are called as hooks are, but lack the mark by which hooks are found."""
    hooks = {name for name in vars(hookspecs) if name.startswith(f"{hookspecs.PROJECT}_")}
    mark = f"{hookspecs.PROJECT}_impl"
    return [
        name
        for name, value in getattr(plugin, "__dict__", {}).items()
        if name.startswith(f"{hookspecs.PROJECT}_")
        and inspect.isroutine(value)
        and not hasattr(value, mark)
        and get_close_matches(name, hooks, 1, 0.85)
    ]


def _records(manager: pluggy.PluginManager, kind: str) -> list[Any]:
    return [record for records in getattr(manager.hook, f"diffcore_{kind}")() for record in records]


def _unusable(record: Any, expected: type[Any], taken: dict[str, Provided], distribution: str) -> str | None:
    if not isinstance(record, expected):
        return f"expected a {expected.__name__} record, got {type(record).__name__}"
    if reason := _unusable_name(record.name) or _letters(record):
        return reason
    if record.name in taken:
        owner = taken[record.name].distribution
        if owner == distribution:
            return f"the name {record.name!r} is offered twice by {owner}"
        first = "" if owner == "diffcore" else ", which comes first in the order of names of distributions"
        return f"the name {record.name!r} is taken by {owner}{first}; {CHOICE} chooses which plugins are loaded"
    if isinstance(record, Component):
        return _unusable_component(record) or _unusable_task(record)  # missing modules are reported when it is chosen
    if isinstance(record, ExportFormat):
        return _unusable_format(record)
    if lacking := missing(record):
        return f"needs modules that are not installed: {', '.join(lacking)}"
    if isinstance(record, Modality) and not (record.datasets and record.denoisers and "default" in record.presets):
        return "a modality needs a data set, a denoiser and a preset called 'default'"
    return _unusable_parts(record) if isinstance(record, Modality) else None


_NAME = re.compile(r"[\w.+]([\w.+-]*[\w.+])?")


def _unusable_name(name: Any) -> str | None:
    """Why nothing can be called so on the command line; None if it can."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return None
    return f"the name {name!r} must be of letters, digits, dots, dashes and underscores, without spaces"


def _unusable_component(component: Component) -> str | None:
    if not callable(component.build):
        return f"`build` of {component.name!r} is a {type(component.build).__name__}, not a function"
    if not (isinstance(component.options, type) and issubclass(component.options, Settings)):
        return f"`options` of {component.name!r} is not a subclass of diffcore.plugins.records.Settings"
    small = () if callable(component.small) else component.small
    unknown = [name for name in small if name not in component.options.model_fields]
    return f"`small` of {component.name!r} has {unknown[0]!r}, which is no option" if unknown else None


def _unusable_format(record: ExportFormat) -> str | None:
    for name, function in {
        "export": record.export,
        **{f"parts[{name!r}]": f for name, f in record.parts.items()},
    }.items():
        if not callable(function):
            return f"`{name}` of {record.name!r} is a {type(function).__name__}, not a function"
    return None


def _letters(record: Any) -> str | None:
    """A list of names that is one string, which would be read as its letters; None if there is none."""
    for name in ("requires", "modalities", "symmetries", "accepts", "helps"):
        if isinstance(value := getattr(record, name, None), str):
            return f"`{name}` of {record.name!r} is a string: write a tuple of names, ({value!r},)"
    return None


_TASK_FUNCTIONS = ("loss", "losses_by_field", "draw", "initialise", "evaluate", "pictures", "report")


def _unusable_task(task: Component) -> str | None:
    """What is wrong with a record if it is a task; None if nothing is."""
    if not isinstance(task, Task):
        return None
    for name in _TASK_FUNCTIONS:
        function = getattr(task, name)
        optional = Task.__dataclass_fields__[name].default is None
        if not callable(function) and not (function is None and optional):
            return f"`{name}` of {task.name!r} is a {type(function).__name__}, not a function"
    if not _KIND.fullmatch(task.network) or task.network in RESERVED:
        return f"`network` of {task.name!r} is {task.network!r}, which cannot be the name of a kind of network"
    if unknown := set(task.helps) - {*HELPS}:
        return f"`helps` of {task.name!r} has {sorted(unknown)[0]!r}; there are: {', '.join(HELPS)}"
    return _unusable_networks(task.network, task.networks)


HELPS = ("classifier", "weak", "teacher", "latent")
"""The options that take the run of another task; see `Task.helps`."""

RESERVED = frozenset(
    {"task", "data", "text", "schedule", "metric", "metrics", "logger", "loggers", "levels", "latent", "train"}
    | {"sample", "modality", "preset", "seed", "device", "parameterisation", "out", "config", "name"}
    | {"solver", "dataset", "command", "text_encoder"}
)
"""What the settings of a run and the flags have beside the network, which no kind of network can be called."""

_KIND = re.compile(r"[a-z][a-z0-9_]*")


def _unusable_networks(kind: str, networks: Iterable[Any]) -> str | None:
    """What is wrong with the networks, or other parts, of a `kind`; None if nothing is."""
    names: set[str] = set()
    for part in networks:
        if not isinstance(part, Component):
            return f"expected Component records in {kind}, got {type(part).__name__}"
        if reason := _unusable_name(part.name) or _letters(part) or _unusable_component(part):
            return f"{kind}: {reason}"
        if part.name in names:
            return f"{kind}: the name {part.name!r} is offered twice"
        names.add(part.name)
    return None


def _unusable_parts(modality: Modality) -> str | None:
    """What is wrong with the parts of a modality; None if nothing is."""
    own = {"datasets": modality.datasets, "denoisers": modality.denoisers, "classifiers": modality.classifiers}
    for kind, parts in {**own, **modality.networks}.items():
        if reason := _unusable_networks(kind, parts):
            return reason
    wrong = [name for name in modality.presets if _unusable_name(name)]
    return f"presets: {_unusable_name(wrong[0])}" if wrong else None


def _refuse_shadows(registry: Registry) -> None:
    """A part that is offered for a kind of data must not bear the name of one of that kind's own."""
    for kind in ("datasets", "denoisers", "classifiers", "autoencoders"):
        taken = getattr(registry, kind)
        for name, provided in list(taken.items()):
            for modality in registry.modalities.values():
                own = {component.name for component in modality.record.parts_of(kind)}
                if name in own and provided.record.serves(modality.record.name):
                    reason = f"the name {name!r} is taken by {modality.distribution}, for {modality.record.name}"
                    registry.failures.append(Failure(f"{kind}: {name}", provided.distribution, reason))
                    taken.pop(name, None)


@cache
def installed() -> Registry:
    """The registry of this Python's installed plugins, loaded once; `DIFFCORE_PLUGINS` chooses among them.

    Raises `UserError` where it names one that is not installed.
    """
    return load(chosen(metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP), os.environ.get(CHOICE)))


def chosen(entry_points: Iterable[metadata.EntryPoint], names: str | None) -> list[metadata.EntryPoint]:
    """Those of the entry points that `names` has, written `a,b`; all where it is None."""
    found = list(entry_points)
    if names is None:
        return found
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    there = {point.name for point in found}
    for name in wanted:
        if name not in there:
            raise UserError(f"{CHOICE} names {name!r}, which is not installed; there are: {_listed(sorted(there))}")
    return [point for point in found if point.name in wanted]
