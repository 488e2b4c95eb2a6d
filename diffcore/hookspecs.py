"""What a plugin can offer. Entry points in the group `diffcore.plugins` name modules with these hooks."""

from collections.abc import Iterable

import pluggy

from diffcore.components import Component, Modality

PROJECT = "diffcore"
ENTRY_POINT_GROUP = "diffcore.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def diffcore_modalities() -> Iterable[Modality]:  # type: ignore[empty-body]
    """Kinds of data that `diffcore train --modality NAME` can learn."""


@hookspec
def diffcore_schedules() -> Iterable[Component]:  # type: ignore[empty-body]
    """Noise schedules: `build(options)` returns a `diffcore.schedules.Schedule`."""


@hookspec
def diffcore_solvers() -> Iterable[Component]:  # type: ignore[empty-body]
    """Solvers: `build(options)` returns a `diffcore.solvers.Step`."""
