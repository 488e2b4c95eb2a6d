"""The part under test: a record of the registry, and what it is built with."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins.building import build
from diffcore.plugins.contract import Contract
from diffcore.plugins.records import Component, Modality, Settings, Task, Trial
from diffcore.plugins.registry import CONTRACTED, Registry, choose
from diffcore.runs.composing import networks_for
from diffcore.testing.checks.check import Measurement
from diffcore.testing.checks.common import source_location
from diffcore.testing.plugin import PluginUnderTest

_BUILT_AS = {"guidance": "guide", "text-encoder": "text"}


@dataclass(frozen=True)
class PartUnderTest:
    """A part of the registry, with its `small` options, and a kind of data to use it with where it needs one.

    `kind` is a key of `CONTRACTED`. `registry` provides the kinds of data, of which `serves` names one; without it, the
    first that the part is for is taken.
    """

    kind: str
    component: Component
    registry: Registry
    serves: str | None = None
    results: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def options(self) -> Settings:
        """The options of the part: the defaults, and `Component.small`."""
        small = self.component.small
        return self.component.options(**(self._tried[1] if callable(small) else small))

    @cached_property
    def modality(self) -> PluginUnderTest:
        """The kind of data that the part is used with. Raises `UserError` if none that it can be used with is there."""
        return self._tried[0]

    @cached_property
    def _tried(self) -> tuple[PluginUnderTest, Mapping[str, Any]]:
        """The first kind of data that the part is for and that it has `small` options for, and these options."""
        reason = ""
        for name, provided in self.registry.modalities.items():
            if self.serves in (None, name) and self._suits(provided.record):
                task = self.component.name if self.kind == "task" else None
                plugin = PluginUnderTest(self.registry, provided.record, requested_task=task)
                try:
                    return plugin, self._small_options(plugin)
                except UserError as error:
                    reason = reason or f"the {self.kind} {self.component.name!r} cannot be tried with {name}: {error}"
        wanted = self.serves or ", ".join(sorted(self.component.modalities or ())) or "any kind of data"
        missing = f"the {self.kind} {self.component.name!r} is tried with {wanted}, which is not installed"
        raise UserError(reason or missing)

    def _small_options(self, plugin: PluginUnderTest) -> Mapping[str, Any]:
        """`Component.small` for this kind of data. Files that it makes are deleted together with this object."""
        small = self.component.small
        if not callable(small):
            return small
        folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        examples = plugin.encoded(4)
        samples = plugin.decode(examples.state, examples.mask)
        return small(Trial(plugin.modality, plugin.codec, samples, folder))

    def _suits(self, modality: Modality) -> bool:
        """Whether the part is for a kind of data, and, if it is a task, whether there is a network for it."""
        has_network = not isinstance(self.component, Task) or networks_for(modality, self.registry, self.component)
        return self.component.serves(modality.name) and bool(has_network)

    @property
    def contract(self) -> Contract:
        """An empty contract: parts declare nothing."""
        return Contract()

    def build(self, *context: Any) -> Any:
        """Another part from the same options."""
        return build(_BUILT_AS.get(self.kind, self.kind), self.component, self.options, *context)

    @property
    def where(self) -> str:
        """Where its builder is."""
        return source_location(self.component.build)


def part_under_test(kind: str, name: str, registry: Registry, serves: str | None = None) -> PartUnderTest:
    """The part of that kind and name. Raises `UserError` if there is none, or no kind of data that it is for."""
    part = PartUnderTest(kind, choose(registry.offered(CONTRACTED[kind]), name, kind), registry, serves)
    if kind in ("guidance", "metric", "task"):
        _ = part.modality
    return part


def built(part: PartUnderTest, *context: Any) -> Measurement:
    """Whether a part can be built from its options; the gate raises if it is not a part of its kind."""
    made = part.build(*context)
    return Measurement(True, f"a {type(made).__name__} with the options {part.options!r}", "a part", part.where)
