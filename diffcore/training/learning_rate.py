"""The learning rate of each step."""

import math

from diffcore.runs.settings import TrainSettings


def learning_rate(options: TrainSettings, step: int, steps_back: int = 0) -> float:
    """Return the learning rate of step k = `step`, counted from 0.

    It rises linearly, is constant, then falls with the square root of the step (Karras et al. 2024, eq. 67)::

        learning_rate * step_back_rate^steps_back * min(1, (k + 1) / warmup_steps) / sqrt(max(1, k / decay_after))

    with the values of `train`. `steps_back` counts how often training stepped back because its loss diverged.

    The rate does not depend on where training ends, so a longer run continues exactly where a shorter one stopped. The
    moving average of the weights has the effect of a decay to zero.
    """
    warm = min(1.0, (step + 1) / max(options.warmup_steps, 1))
    rate = options.learning_rate * options.step_back_rate**steps_back
    return rate * warm / math.sqrt(max(1.0, step / options.decay_after))
