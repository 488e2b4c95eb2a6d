"""The global random generators, which layers such as dropout draw from.

All other random numbers are functions of a seed (`diffcore.states.noise`). Threads that train on CPUs take turns in
their use of the global generator; those that train on one GPU at the same time are not exact if their networks have
such layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed the global random generators of the CPU and of `device`.

    `torch.manual_seed` would also seed those of all other devices, which `keep_random_state` does not restore.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():  # a CUDA graph is seeded when it runs
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


@contextmanager
def keep_random_state(device: torch.device) -> Iterator[None]:
    """Return a context that restores the global random state of `device` when it ends, if it is a GPU.

    That of the CPU is restored after each use (`diffcore.states.global_random.seeded`), because threads share it.
    """
    if device.type != "cuda":
        yield
        return
    state = torch.cuda.get_rng_state(device)
    try:
        yield
    finally:
        torch.cuda.set_rng_state(state, device)
