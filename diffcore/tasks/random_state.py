"""The global random generators, which layers such as dropout draw from.

Everything else draws from generators of its own (`diffcore.states.noise`). All threads share the global generators, so
two threads that train at the same time are not exact if their networks have such layers.
"""

from contextlib import AbstractContextManager

import torch


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed the global random generators of the CPU and of `device`.

    `torch.manual_seed` would also seed those of all other devices, which `keep_random_state` does not restore.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():  # a CUDA graph is seeded when it runs
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


def keep_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Return a context that restores the global random state of the CPU and of `device` when it ends."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
