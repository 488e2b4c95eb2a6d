"""Random numbers that belong to samples, not to batches."""

import hashlib
from collections.abc import Sequence

import torch

from diffcore.states.state import State, map_fields


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed out of numbers and words: independent streams for (seed, purpose, index)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `seed_of(parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))


def uniform(indices: Sequence[int], *parts: int | str) -> torch.Tensor:
    """Numbers between 0 and 1, float64 `[B]`: that of each index is decided by it and `parts` alone."""
    streams = (generator_for(*parts, index) for index in indices)
    return torch.tensor([torch.rand((), generator=g, dtype=torch.float64).item() for g in streams], dtype=torch.float64)


class SampleNoise:
    """Standard normal numbers in which sample i has a stream of its own.

    Sample 17 of seed 3 gets the same numbers in a batch of 1 and of 64, on every device: they are drawn on the
    CPU, in float32, and moved.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self._generators = [generator_for(seed, "sample", index) for index in indices]

    def normal(self, like: State) -> State:
        """Independent standard normal numbers of the shape of `like`, `[B, ...]`."""

        def draw(field: torch.Tensor) -> torch.Tensor:
            rows = [
                torch.randn(field.shape[1:], generator=generator, dtype=torch.float32) for generator in self._generators
            ]
            return torch.stack(rows).to(field.device, field.dtype)

        return map_fields(draw, like)
