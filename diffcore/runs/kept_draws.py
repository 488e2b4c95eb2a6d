"""Samples that are not results themselves, kept in files until these are there, so that an interrupted call goes on.

They are what an evaluation measures, and what samples are chosen from. Of an evaluation, each process writes the
batches that it draws, as it draws them. A batch is found again by the recipe of the samples, so the same call with the
same number of processes draws only the batches that are missing.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffcore.denoising.conditions import Conditions
from diffcore.errors import UserError
from diffcore.plugins.data import Encoded
from diffcore.runs.checkpoints import tensors_digest, weights_digest
from diffcore.runs.drawing import Drawing
from diffcore.runs.folder import RunFolder
from diffcore.runs.kept_states import read_kept, write_states
from diffcore.runs.model import Model, codec_digest
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.states.state import State

logger = logging.getLogger(__name__)


class KeptDraws:
    """Batches of the samples of one recipe, in the files of a folder; `found` counts the samples that were there."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.found = 0

    def read(self, rows: range) -> State | None:
        """The states of these samples; None if they are not kept."""
        found = self.read_from(f"{rows.start:08d}", len(rows))
        return None if found is None else found.state

    def read_from(self, name: str, count: int) -> Encoded | None:
        """The states of `count` samples in the file of that name, and their mask; None if they are not kept."""
        path = None if self._folder is None else self._folder / f"{name}-{count}.safetensors"
        if path is None or not path.is_file():
            return None
        try:
            found = read_kept(path, count)
        except UserError:  # it is damaged, and deleted
            return None
        self.found += count
        return found

    def write(self, rows: range, state: State) -> None:
        """Keep the states of these samples. If they cannot be written, the reason is logged, and no more are kept."""
        self.write_to(f"{rows.start:08d}", Encoded(state, {}, None), len(rows))

    def write_to(self, name: str, encoded: Encoded, count: int) -> None:
        """The same for the file of that name, and with the mask."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_states(self._folder / f"{name}-{count}.safetensors", encoded, count)
        except OSError as error:
            logger.warning(f"what is drawn is not kept: {self._folder} cannot be written to ({error.strerror})")
            self._folder = None


def draws_of(
    folder: Path | None,
    model: Model,
    config: SamplingConfig,
    conditions: Conditions,
    seed: int,
    constraint: str = "",
) -> KeptDraws:
    """The samples of this recipe that are kept in a folder; without a folder, none are kept.

    `constraint` says what the samples must agree with.
    """
    if folder is None:
        return KeptDraws(None)
    recipe = {
        **config.recipe(),
        "batch_size": config.batch_size,
        "codec": codec_digest(model.codec),
        "conditions": tensors_digest(conditions),
        "seed": seed,
        "constraint": constraint,
    }
    return KeptDraws(folder / _key(recipe))


def tries_of(folder: Path | None, drawing: Drawing) -> KeptDraws:
    """The samples that are kept in a folder of those from which samples are chosen; without a folder, none are."""
    constraint = drawing.constraint
    if folder is None or (constraint is not None and not constraint.recipe):  # one of the caller is not known again
        return KeptDraws(None)
    recipe = {**drawing.recipe, "write": None, "of": tensors_digest(drawing.conditions)}
    return KeptDraws(folder / _key(recipe))


def place_of_tries(out: Path) -> Path:
    """The folder beside `out` for the samples from which those in `out` are chosen."""
    return out.parent / f".{out.name}.choosing"


def _key(recipe: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:16]


def place_of_draws(run: RunFolder, checkpoint: Path) -> Path:
    """The folder in which an evaluation of the weights of a checkpoint keeps what it draws."""
    return run.path / _FOLDER / weights_digest(checkpoint)[:16]


def discard_draws(run: RunFolder) -> None:
    """Delete what evaluations have kept."""
    shutil.rmtree(run.path / _FOLDER, ignore_errors=True)


_FOLDER = ".evaluating"
