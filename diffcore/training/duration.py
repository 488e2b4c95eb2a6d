"""How long training lasts: until `train.steps` or `train.minutes`, whichever is reached first."""

from diffcore.errors import UserError
from diffcore.runs.checkpoints import Progress
from diffcore.runs.settings import TrainSettings


def require_end(options: TrainSettings) -> None:
    """Raise `UserError` if the settings do not define when training ends."""
    if options.steps is None and options.minutes is None:
        raise UserError("training has no end: give `train.steps` or `train.minutes`")


def share_done(options: TrainSettings, progress: Progress) -> float:
    """Return the share of the training that is done: 0 at the beginning, 1 or more at the end."""
    steps = progress.step / options.steps if options.steps else 0.0
    minutes = progress.seconds / (60 * options.minutes) if options.minutes else 0.0
    return max(steps, minutes)


def seconds_left(options: TrainSettings, progress: Progress, since: Progress) -> float:
    """Return the estimated seconds of training until the end, given the progress at an earlier step of this session.

    With n steps in s seconds since then, it is (steps - step) s / n for `train.steps`, and 60 minutes - seconds for
    `train.minutes`; the smaller one if both are set. Time for checkpoints and pictures is not included.
    """
    seconds_per_step = (progress.seconds - since.seconds) / (progress.step - since.step)
    left = []
    if options.steps:
        left.append((options.steps - progress.step) * seconds_per_step)
    if options.minutes:
        left.append(60 * options.minutes - progress.seconds)
    return max(0.0, min(left))
