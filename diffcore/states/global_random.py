"""The global random generators, which all threads of a process share.

Initial weights and layers such as dropout draw from them. Everything else draws from generators of its own
(`diffcore.states.noise`).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generator of the CPU until the context ends, which restores its state.

    Only one thread at a time can be in such a context, so that none draws the numbers of another.
    """
    with _LOCK, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
