"""The learning rate of each step."""

import math

from diffcore.runs.settings import TrainSettings


def learning_rate(options: TrainSettings, step: int, steps_back: int = 0) -> float:
    """Return the learning rate of step k = `step`, counted from 0.

    It rises linearly, is constant, then falls with the square root of the step (Karras et al. 2024, eq. 67)::

        learning_rate * step_back_rate^steps_back * min(1, (k + 1) / warmup_steps) / sqrt(max(1, k / decay_after))

    with the values of `train`. `steps_back` counts how often training stepped back because its loss diverged.

    With `cooldown` > 0 and a number of `steps`, it is also multiplied by min(1, (steps - k) / (cooldown * steps)), so
    that it falls to zero over the last part of the training (Hagele et al. 2024). Without it, the rate does not depend
    on where training ends, so a longer run continues exactly where a shorter one stopped.
    """
    warm = min(1.0, (step + 1) / max(options.warmup_steps, 1))
    rate = options.learning_rate * options.step_back_rate**steps_back
    rate *= warm / math.sqrt(max(1.0, step / options.decay_after))
    if options.steps is None or options.cooldown == 0:
        return rate
    return rate * min(1.0, max(0.0, (options.steps - step) / (options.cooldown * options.steps)))
