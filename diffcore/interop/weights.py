"""Runs made of given weights, without training, and the weights of runs."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffcore.errors import UserError
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import Registry
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, Progress, write_checkpoint
from diffcore.runs.codec_weights import keep_codec
from diffcore.runs.composing import compose
from diffcore.runs.folder import RunFolder, describe, new_folder
from diffcore.runs.latents import field_key
from diffcore.runs.loading import LoadedRun, load_run
from diffcore.runs.lock import LOCK, locked
from diffcore.runs.model import build_model, require_draws, require_fit
from diffcore.runs.settings import FirstStage, validate


@dataclass(frozen=True)
class Latents:
    """An autoencoder, and how its latents are scaled: a run diffuses in (E(x) - mean) / std.

    * `autoencoder`: its name and options. `facts`: the facts of the data whose states it encodes.
    * `weights`: all its tensors, by the names in its `state_dict`.
    * `mean`, `std`: of each channel, for latents that are one tensor.
    """

    autoencoder: Mapping[str, Any]
    facts: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    mean: Tensor
    std: Tensor

    def described(self) -> dict[str, Any]:
        """The fields of `FirstStage`. Latents end without noise."""
        return {"autoencoder": dict(self.autoencoder), "facts": dict(self.facts), "last_log_snr": None}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the codec, by the names in its `state_dict`."""
        own = {f"autoencoder.{name}": tensor for name, tensor in self.weights.items()}
        return {**own, f"mean.{field_key('')}": self.mean, f"std.{field_key('')}": self.std}


def run_of_weights(
    out: Path,
    modality: str,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    registry: Registry,
    origin: str,
    latents: Latents | None = None,
) -> Path:
    """Make a run in the new folder `out` whose network has the `weights`, and return its folder.

    * `settings`: the settings of the run, nested as in TOML; what is absent has the defaults of the modality.
    * `facts`: the facts of the data that the network was trained on, of which the codec is made.
    * `weights`: all tensors of the module that the task builds, by the names in its `state_dict`. They become the
      weights and their moving average, at step 0.
    * `origin`: where all this comes from, for messages.
    * `latents`: in what the network diffuses, if these are not states of the data themselves.

    Raises `UserError` if a value does not fit, and if the names or the shapes of the weights are not those of the
    network. No folder is made then, and none is left if writing fails or is interrupted.
    """
    composed = compose(registry, modality, file=settings, origin=origin)
    found = validate(registry.modality(modality).facts, facts, f"{origin}: facts of the data")
    stage = None if latents is None else FirstStage(**latents.described())
    numbers = sum(tensor.numel() for part in (weights, latents.weights if latents else {}) for tensor in part.values())
    try:
        model = build_model(composed, found, registry, numbers, stage)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    values = _fitting(model.network, weights, origin)
    if latents is not None:
        assert isinstance(model.codec, nn.Module)
        model.codec.load_state_dict(_fitting(model.codec, latents.tensors(), origin))
    there = out.exists()
    folder = RunFolder(new_folder(out, modality, "imported"))
    try:
        with locked(folder), _whole_or_nothing(folder.path):
            describe(folder, composed, found.model_dump(mode="json"), registry, keep_codec(folder, model), stage)
            write_checkpoint(folder, Progress(), {MODEL: values, EMA: values, TRAINING: {}}, keep=1)
    finally:
        if not there and [path.name for path in folder.path.iterdir()] == [LOCK]:
            shutil.rmtree(folder.path, ignore_errors=True)
    return folder.path


@contextlib.contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[None]:
    """Remove what was written in the folder if the block ends by an exception, such as a full disk or Ctrl-C."""
    before = {path.name for path in folder.iterdir()}
    try:
        yield
    except BaseException:
        for path in [path for path in folder.iterdir() if path.name not in before]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def _fitting(module: nn.Module, weights: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The weights in the types of the module's own. Raises `UserError` for others than it has, and infinite ones."""
    own = module.state_dict()
    require_fit({name: tensor.shape for name, tensor in own.items()}, weights, origin)
    values = {name: tensor.to(own[name].dtype) for name, tensor in weights.items()}
    if wrong := next((name for name, tensor in values.items() if not tensor.isfinite().all()), None):
        raise UserError(f"{origin}: {wrong[:200]} holds values that are not finite")
    return values


def loaded_run(path: Path, registry: Registry, trust: bool = False) -> LoadedRun:
    """The run in the folder `path`, on the CPU. Raises `UserError` if there is none."""
    return load_run(path, registry, "cpu", trust=trust)


def drawing_run(path: Path, registry: Registry, trust: bool = False) -> LoadedRun:
    """The run in the folder `path`, on the CPU. Raises `UserError` if there is none, or if it draws no samples."""
    loaded = loaded_run(path, registry, trust)
    require_draws(loaded.model, path)
    return loaded


def checked(model: type[Settings], values: Mapping[str, Any], origin: str) -> Any:
    """An instance of `model` with `values` from `origin`. Raises `UserError` that names the values that do not fit."""
    return validate(model, values, origin)
