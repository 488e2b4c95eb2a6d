"""How long the networks behind metrics are trained, which checks of a plugin make short."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_MOST: ContextVar[int | None] = ContextVar("most_steps", default=None)


def steps_to_train(steps: int) -> int:
    """`steps`, or fewer inside of `few_steps`. A network that a metric needs is trained for so many steps."""
    most = _MOST.get()
    return steps if most is None else min(steps, most)


def examined(count: int) -> int:
    """`count`, or at most 1 inside of `few_steps`: how many samples a metric examines that takes long for each."""
    return count if _MOST.get() is None else min(count, 1)


def patience(seconds: float) -> float:
    """`seconds`, or at most 3 inside of `few_steps`: how long a metric waits for a sample that it examines."""
    return seconds if _MOST.get() is None else min(seconds, 3.0)


@contextmanager
def few_steps(most: int = 20) -> Iterator[None]:
    """Within this context, networks behind metrics train for at most `most` steps, and few samples are examined.

    The metrics mean nothing then.

    `diffcore check-plugin` runs evaluators in it, with a cache folder of its own.
    """
    token = _MOST.set(most)
    try:
        yield
    finally:
        _MOST.reset(token)
