"""Load the settings and the model of a trained run, with the moving average of its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from diffcore.names import Device
from diffcore.plugins.registry import Registry
from diffcore.runs.checkpoints import EMA, count_numbers, newest_undamaged
from diffcore.runs.codec_weights import load_codec
from diffcore.runs.consent import require_consent
from diffcore.runs.folder import open_run
from diffcore.runs.model import Model, build_model, load_weights
from diffcore.runs.settings import RunSettings
from diffcore.system.distributed import from_leader


class LoadedRun(NamedTuple):
    """The settings of a run, its model with averaged weights in evaluation mode, and the checkpoint of the weights.

    `own` says whether this user has made the run, as `diffcore.runs.consent` describes.
    """

    settings: RunSettings
    model: Model
    checkpoint: Path
    own: bool


def load_run(
    path: Path,
    registry: Registry,
    device: Device | None = None,
    checkpoint: str | None = None,
    trust: bool = False,
) -> LoadedRun:
    """Load the run in the folder `path` from the checkpoint of that name, or from the newest undamaged one.

    Raises `UserError` if there is no such run or checkpoint, if all checkpoints are damaged, and, without `trust`, if
    another user made the run and its network or its schedule would read files outside of it.
    """
    run, description = open_run(path, registry)
    if not (from_leader(lambda: description.own) or trust):
        require_consent(path, description.settings, loggers=False, data=False)
    settings = on_device(description.settings, device)

    def load(path: Path) -> Model:
        # The header is read first, which limits the size of the network that is built to that of its weights.
        model = build_model(settings, description.facts, registry, count_numbers(path, EMA), description.first_stage)
        load_codec(run, model, description.codec)
        load_weights(model, path)
        return model

    source, model = newest_undamaged(run, load, checkpoint)
    model.network.eval().requires_grad_(False)
    return LoadedRun(settings, model, source, description.own)


def on_device(settings: RunSettings, device: Device | None) -> RunSettings:
    """The settings with `device`, or unchanged if that is None."""
    return settings if device is None else settings.model_copy(update={"device": device})


Loader = Callable[[Path, str | None], LoadedRun]
"""A function that loads the run in a folder, from the checkpoint of that name or, with None, the newest."""
