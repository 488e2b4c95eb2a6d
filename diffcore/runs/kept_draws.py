"""The samples that an evaluation draws, kept in files until it has ended, so that an interrupted one goes on.

Each process writes the batches that it draws, as it draws them. A batch is found again by the recipe of the samples, so
the same evaluation with the same number of processes draws only the batches that are missing.
"""

import hashlib
import json
import logging
import shutil
from pathlib import Path

from diffcore.denoising.conditions import Conditions
from diffcore.errors import UserError
from diffcore.plugins.data import Encoded
from diffcore.runs.checkpoints import tensors_digest, weights_digest
from diffcore.runs.folder import RunFolder
from diffcore.runs.kept_states import keep, kept_file, read_kept
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
        path = None if self._folder is None else kept_file(self._folder, rows.start, len(rows))
        if path is None or not path.is_file():
            return None
        try:
            state = read_kept(path, len(rows)).state
        except UserError:  # it is damaged, and deleted
            return None
        self.found += len(rows)
        return state

    def write(self, rows: range, state: State) -> None:
        """Keep the states of these samples. If they cannot be written, the reason is logged, and no more are kept."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            keep(self._folder, rows.start, Encoded(state, {}, None), len(rows))
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
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()
    return KeptDraws(folder / key[:16])


def place_of_draws(run: RunFolder, checkpoint: Path) -> Path:
    """The folder in which an evaluation of the weights of a checkpoint keeps what it draws."""
    return run.path / _FOLDER / weights_digest(checkpoint)[:16]


def discard_draws(run: RunFolder) -> None:
    """Delete what evaluations have kept."""
    shutil.rmtree(run.path / _FOLDER, ignore_errors=True)


_FOLDER = ".evaluating"
