"""The options of commands that read a trained run.

This module and the modules of the commands import PyTorch when a command runs, so that their help appears at once.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import tyro
from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from diffcore.cli.selectors import Chosen
from diffcore.names import Device
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import Registry
from diffcore.runs.settings import SampleSettings

if TYPE_CHECKING:
    from diffcore.api.run import Run
    from diffcore.runs.sampling_config import SamplingOptions


class FromRun(Settings):
    """What every command that reads a trained run takes."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    checkpoint: str | None = None
    """Name of a checkpoint, such as step-00001000; the newest by default."""
    device: Device | None = None
    """auto takes a GPU where there is one; without a flag, as the run was trained."""


def _optional(info: FieldInfo) -> tuple[Any, Any]:
    """A field that may be left out, as the run's own settings have a value for it."""
    annotation: Any = info.annotation
    changed: FieldInfo = Field(None, description=info.description)  # type: ignore[assignment]
    changed.metadata = list(info.metadata)
    return (annotation | None, changed)


_Own: type[FromRun] = create_model(
    "_Own",
    __base__=FromRun,
    **{name: _optional(info) for name, info in SampleSettings.model_fields.items() if name != "solver"},  # type: ignore[call-overload]
)
"""The fields of the settings `sample`, each of which a flag can change."""


def trust_field(what: str) -> Any:
    """The flag with which a run of another user may do what its configuration says."""
    return Field(False, description=f"Let a run that another user made {what}, as its configuration says.")


class DrawOptions(_Own):  # type: ignore[valid-type, misc]
    """How to draw. What is not given is as the run's configuration has it."""

    negative_prompt: str | None = Field(
        None, description="A text that samples are not: --guidance moves them away from it, in place of no text."
    )
    classifier: Path | None = Field(None, description="A run with --task classify whose gradient guides.")
    weak: str | None = Field(
        None, description="Autoguidance against a checkpoint of this run, or another run's folder."
    )
    seed: int = Field(0, ge=0, description="Sample i of a seed is the same in every batch.")


def run_of(options: Any, registry: Registry, data_at: Mapping[str, str] = MappingProxyType({})) -> "Run":
    """The run that the options name; `data_at` is where its data are if they have moved."""
    from diffcore.api.run import Run

    trust = getattr(options, "trust", False)
    return Run(options.run, options.checkpoint, options.device, registry, data_at, trust)


def sampling_of(chosen: Chosen) -> "SamplingOptions":
    """The options of sampling that the flags give."""
    from diffcore.runs.sampling_config import SamplingOptions

    options = chosen.options
    given: dict[str, Any] = {name: getattr(options, name, None) for name in SamplingOptions.__annotations__}
    given |= {
        "solver": chosen.part("solver"),
        "schedule": chosen.part("schedule"),
        "guides": chosen.guides or None,
    }
    return SamplingOptions(**given)  # type: ignore[typeddict-item]
