"""Saving the state of the training loop in a checkpoint, and restoring it."""

from collections.abc import Mapping
from pathlib import Path

import torch

from diffcore.errors import UserError
from diffcore.runs.checkpoints import TRAINING, read_progress, write_checkpoint
from diffcore.runs.folder import sync_log
from diffcore.system.distributed import from_leader
from diffcore.training.divergence import WINDOW, DivergedError, check_losses, non_finite
from diffcore.training.loop_state import LoopState
from diffcore.training.state import Tensors

_LOSSES = "losses since the last line of metrics"
_HISTORY = "losses of lines of metrics"
"""Names of tensors in training.safetensors: `LoopState.losses` and `LoopState.history`."""


def save(loop: LoopState) -> None:
    """Write a checkpoint of the current step.

    Raises `DivergedError`, and writes nothing, if the losses diverged or a tensor of the checkpoint is not finite.
    """
    options, progress = loop.options, loop.progress
    with loop.clock.stopped():
        losses = loop.recent_losses()
        check_losses(losses, progress.step, loop.history, options.explosion)
        files = loop.train_state.files()
        others = {
            _LOSSES: torch.tensor(losses, dtype=torch.float32),
            _HISTORY: torch.tensor(loop.history, dtype=torch.float64),
        }
        if loop.train_state.is_sharded:
            loop.checkpoint = _save_rows(loop, files, others)
        else:
            loop.checkpoint = _save_whole(loop, files, others)
        loop.saved_step = progress.step
        loop.train_state.drop_initial_weights()


def _save_whole(loop: LoopState, files: Mapping[str, Tensors], others: Tensors) -> Path:
    """Write the tensors of the leader, which are those of all processes."""
    run, options, progress = loop.run, loop.options, loop.progress
    whole = {**files, TRAINING: {**files[TRAINING], **others}}
    if reason := from_leader(lambda: non_finite(whole)):
        raise DivergedError(progress.step, reason)

    def write() -> Path:
        sync_log(run)
        path = write_checkpoint(run, progress, whole, options.keep_checkpoints, options.keep_every)
        loop.callbacks.saved(progress.step, path)
        return path

    return from_leader(write)


def _save_rows(loop: LoopState, files: Mapping[str, Tensors], others: Tensors) -> Path:
    """Write the rows of all processes."""
    from diffcore.training.sharded_checkpointing import non_finite_rows, write

    options, progress = loop.options, loop.progress
    if reason := non_finite_rows(files):
        raise DivergedError(progress.step, reason)
    small = {name: each for name, each in files[TRAINING].items() if not each.ndim}
    moments = {name: each for name, each in files[TRAINING].items() if name not in small}
    return write(
        loop.run,
        progress,
        {**files, TRAINING: moments},
        {**small, **others},
        options.keep_checkpoints,
        options.keep_every,
        lambda: sync_log(loop.run),
        lambda path: loop.callbacks.saved(progress.step, path),
    )


def resume(loop: LoopState, checkpoint: Path) -> None:
    """Restore everything that a checkpoint holds, to continue from its step."""
    progress = read_progress(checkpoint)
    restore(loop, checkpoint)
    loop.checkpoint = checkpoint
    loop.train_state.drop_initial_weights()
    loop.continue_from(progress)


def restore(loop: LoopState, checkpoint: Path | None) -> None:
    """Restore the weights, the optimiser and the losses from a checkpoint, or those of the beginning if it is None.

    Raises `UserError` if the checkpoint does not fit the network, or holds a tensor that is not known.
    """
    others = loop.train_state.restore(checkpoint)
    losses = others.pop(_LOSSES, torch.empty(0)).flatten()[: loop.options.log_every]
    loop.losses = list(losses.to(loop.train_state.model.device))
    loop.history = others.pop(_HISTORY, torch.empty(0)).flatten()[: WINDOW + 1].tolist()
    if others:
        raise UserError(f"{checkpoint}: {TRAINING} holds an unknown tensor {next(iter(others))[:200]!r}")
