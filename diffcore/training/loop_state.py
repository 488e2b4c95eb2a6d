"""What the training loop keeps from one step to the next."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from diffcore.runs.checkpoints import Progress
from diffcore.runs.folder import RunFolder
from diffcore.runs.settings import TrainSettings
from diffcore.system.distributed import mean
from diffcore.training.callbacks import Callbacks
from diffcore.training.clock import Clock
from diffcore.training.state import TrainState


@dataclass
class LoopState:
    """The state of the training loop: the weights are in `train_state`, everything else is here."""

    run: RunFolder
    options: TrainSettings
    callbacks: Callbacks
    train_state: TrainState
    progress: Progress = field(default_factory=Progress)
    since: Progress = field(default_factory=Progress)
    """The progress when training began, or was resumed or stepped back the last time."""
    clock: Clock = field(default_factory=Clock)
    """The seconds of training since then."""
    losses: list[Tensor] = field(default_factory=list)
    """The losses of the steps since the last line of the log, of this process's share of the examples."""
    history: list[float] = field(default_factory=list)
    """The losses of earlier lines of the log that a divergence is detected with (`divergence.extended`)."""
    checkpoint: Path | None = None
    """The last checkpoint, which has good weights."""
    saved_step: int = -1
    """The step of the last checkpoint, or that to which training stepped back; it need not be saved again."""

    def continue_from(self, progress: Progress) -> None:
        """Set the progress to that of the weights, which were just restored."""
        self.progress = self.since = progress
        self.saved_step = progress.step
        self.clock = Clock()

    def recent_losses(self) -> list[float]:
        """Return the losses of the steps since the last line of the log, of all processes."""
        return mean(torch.stack(self.losses).double()).tolist() if self.losses else []
