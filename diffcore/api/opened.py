"""A run in its folder, whose model and data are loaded when they are first needed."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diffcore.api.modes import in_own_modes
from diffcore.errors import UserError
from diffcore.names import Device
from diffcore.plugins import registry as plugins
from diffcore.plugins.building import of_samples
from diffcore.plugins.data import Data
from diffcore.plugins.registry import Registry
from diffcore.plugins.text import encoder_of
from diffcore.runs.consent import require_consent
from diffcore.runs.data_record import difference as examples_differ
from diffcore.runs.data_record import read_record, record_of
from diffcore.runs.folder import RunFolder
from diffcore.runs.loading import LoadedRun, load_run
from diffcore.runs.model import Model, data_of
from diffcore.runs.moved import with_data_at
from diffcore.runs.particles import with_particles
from diffcore.runs.sampling_config import SamplingConfig, SamplingOptions, configured
from diffcore.runs.settings import RunSettings
from diffcore.states.spaces import describe_difference
from diffcore.system.distributed import from_leader, in_turn, leads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedRun:
    """A run in its folder: its settings, its model, its data, and how samples are drawn from it.

    The fields are those of `diffcore.api.run.Run`.
    """

    path: Path
    checkpoint: str | None = None
    device: Device | None = None
    registry: Registry = field(default_factory=lambda: plugins.installed(), repr=False, compare=False)
    data_at: Mapping[str, Any] = field(default_factory=dict, compare=False)
    trust: bool = field(default=False, compare=False)

    @cached_property
    def loaded(self) -> LoadedRun:
        """The settings, the model and the checkpoint that its weights come from."""
        return self._load(self.path, self.checkpoint)

    @property
    def settings(self) -> RunSettings:
        """The settings of the run."""
        return self.loaded.settings

    @property
    def model(self) -> Model:
        """The model with averaged weights: codec, network and schedule."""
        return self.loaded.model

    @cached_property
    @in_own_modes
    def data(self) -> Data:
        """The data that the run was trained on, read again.

        Raises `UserError` where they are others now, and, without `trust`, if another user made the run and its
        configuration names places or a download.
        """
        if not (from_leader(lambda: self.loaded.own) or self.trust):
            require_consent(self.path, self.settings, self.data_at, loggers=False)
        settings, encoder = with_data_at(self.settings, self.data_at), encoder_of(self.model.codec.conditions)
        data = in_turn(lambda: data_of(self.path, settings, self.registry, encoder))
        space = of_samples(self.model.codec).space
        if difference := describe_difference(self.model.modality.codec(data.facts).space, space):
            raise UserError(f"{self.path} was trained on other data than are there now: {difference}")
        before = read_record(RunFolder(self.path))
        now = record_of(self.settings.data.name, data, self.model.codec)  # type: ignore[attr-defined]
        if before is not None and leads() and (words := examples_differ(before, now)):
            logger.warning(f"{self.path} was trained on other data than are there now: {words}")
        return data

    def config(self, options: SamplingOptions) -> tuple[Model, SamplingConfig]:
        """The model, and how `sample` draws from it with these options."""
        model, config = configured(self.path, self.loaded, self.registry, options, self._load)
        return model, with_particles(model, config, options.get("solver") is not None)

    @in_own_modes
    def _load(self, path: Path, checkpoint: str | None) -> LoadedRun:
        return load_run(path, self.registry, self.device, checkpoint, self.trust)
