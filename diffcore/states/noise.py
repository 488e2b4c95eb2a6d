"""Random numbers that depend on the sample, not on the batch in which it is drawn."""

import hashlib
from collections.abc import Sequence

import torch

from diffcore.states.state import State, map_fields


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed computed from numbers and words, such as (seed, purpose, index): each tuple has its own stream."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `seed_of(parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))


def uniform(indices: Sequence[int], *parts: int | str) -> torch.Tensor:
    """Uniform numbers in [0, 1), float64 `[B]`; the number of an index depends only on the index and on `parts`."""
    streams = (generator_for(*parts, index) for index in indices)
    return torch.tensor([torch.rand((), generator=g, dtype=torch.float64).item() for g in streams], dtype=torch.float64)


class SampleNoise:
    """Standard normal numbers from a separate stream for each sample.

    Sample 17 of seed 3 gets the same numbers in a batch of 1 and of 64, and on every device: they are drawn on the
    CPU in float32, then copied to the device.

    * `seed`: the seed of all samples.
    * `indices`: the indices of the samples of the batch, B of them.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self._generators = [generator_for(seed, "sample", index) for index in indices]

    def normal(self, like: State) -> State:
        """The next standard normal numbers of each sample, of the shape, type and device of `like` `[B, ...]`."""

        def draw(field: torch.Tensor) -> torch.Tensor:
            rows = [
                torch.randn(field.shape[1:], generator=generator, dtype=torch.float32) for generator in self._generators
            ]
            return torch.stack(rows).to(field.device, field.dtype)

        return map_fields(draw, like)
