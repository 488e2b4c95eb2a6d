"""Finding plugins, and explaining those that cannot be used.

One broken plugin never stops another: whatever goes wrong while an entry point is loaded, or while one of its
records is looked at, becomes a `Failure` with the distribution's name and the reason.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

import pluggy

from diffcore import builtin, hookspecs
from diffcore.components import API_VERSION, Component, Modality, missing
from diffcore.errors import UserError


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


@dataclass
class Registry:
    """Everything that is installed, by name."""

    modalities: dict[str, Provided] = field(default_factory=dict)
    schedules: dict[str, Provided] = field(default_factory=dict)
    solvers: dict[str, Provided] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def modality(self, name: str) -> Modality:
        """The modality `name`, or a `UserError` that lists what there is, what failed and what could be installed."""
        if name in self.modalities:
            return self.modalities[name].record
        raise UserError(
            f"unknown modality {name!r}; installed: {_listed(self.modalities)}"
            + "".join(f"; failed: {f.plugin} ({f.reason})" for f in self.failures)
            + "".join(f"; could be installed: {c}" for c in [", ".join(self.installable())] if c)
        )

    def schedule(self, name: str) -> Component:
        """The schedule `name`, or a `UserError` with the names that exist."""
        return choose((provided.record for provided in self.schedules.values()), name, "schedule")

    def solver(self, name: str) -> Component:
        """The solver `name`, or a `UserError` with the names that exist."""
        return choose((provided.record for provided in self.solvers.values()), name, "solver")

    def installable(self) -> list[str]:
        """Commands for the plugins that this distribution names as extras and that are not here."""
        try:
            extras = metadata.metadata("diffcore").get_all("Provides-Extra") or []
        except metadata.PackageNotFoundError:
            return []
        known = {*self.modalities, *(failure.plugin for failure in self.failures)}
        return [f"pip install 'diffcore[{extra}]'" for extra in extras if extra not in known | {"dev"}]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def choose(offered: Iterable[Component], name: str, kind: str) -> Component:
    """The component of that name among `offered`, or a `UserError` with the names that exist or what it lacks."""
    by_name = {component.name: component for component in offered}
    if name not in by_name:
        raise UserError(f"unknown {kind} {name!r}; there are: {_listed(by_name)}")
    if lacking := missing(by_name[name]):
        raise UserError(f"the {kind} {name!r} needs modules that are not installed: {', '.join(lacking)}")
    return by_name[name]


def _distribution(entry_point: metadata.EntryPoint) -> tuple[str, str]:
    return (entry_point.dist.name, entry_point.dist.version) if entry_point.dist else ("unknown", "0")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")


def load(entry_points: Iterable[metadata.EntryPoint]) -> Registry:
    """Load each entry point by itself and collect the records of those that are sound."""
    registry = Registry()
    _add_plugin(registry, builtin, "diffcore", metadata_version("diffcore"), "diffcore")
    for entry_point in entry_points:
        distribution, version = _distribution(entry_point)
        try:
            plugin = entry_point.load()
            _add_plugin(registry, plugin, entry_point.name, version, distribution)
        except Exception as error:  # a stranger's import may raise anything
            registry.failures.append(Failure(entry_point.name, distribution, _reason(error)))
    return registry


def metadata_version(distribution: str) -> str:
    """The installed version of a distribution, or `unknown`."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def _add_plugin(registry: Registry, plugin: Any, name: str, version: str, distribution: str) -> None:
    """Check one plugin in a manager of its own, so that what is wrong with it stays with it; then take its records."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    manager.check_pending()
    for kind, expected in (("modalities", Modality), ("schedules", Component), ("solvers", Component)):
        for records in getattr(manager.hook, f"diffcore_{kind}")():
            for record in records:
                taken = getattr(registry, kind)
                reason = _unusable(record, expected, taken)
                if reason:
                    registry.failures.append(
                        Failure(f"{name}: {getattr(record, 'name', record)}", distribution, reason)
                    )
                else:
                    taken[record.name] = Provided(record, distribution, version)


def _unusable(record: Any, expected: type[Component] | type[Modality], taken: dict[str, Provided]) -> str | None:
    if not isinstance(record, expected):
        return f"expected a {expected.__name__} record, got {type(record).__name__}"
    if record.name in taken:
        return f"the name {record.name!r} is taken by {taken[record.name].distribution}"
    if not isinstance(record, Modality):
        return None
    if record.api_version != API_VERSION:
        return f"made for plugin API {record.api_version}, this diffcore has {API_VERSION}"
    if lacking := missing(record):
        return f"needs modules that are not installed: {', '.join(lacking)}"
    if not record.datasets or not record.denoisers or "default" not in record.presets:
        return "a modality needs a data set, a denoiser and a preset called 'default'"
    return None


@cache
def installed() -> Registry:
    """The registry of this Python's installed plugins, loaded once."""
    return load(metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP))
