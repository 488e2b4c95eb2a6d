"""Random numbers as a function of (seed, stream, sample, shape).

Sample 17 of seed 3 gets the same numbers in a batch of 1 and of 64, in any process and on every device: nothing is
drawn from a generator that has a state. A stream is the purpose of the numbers, such as `"prior"` or `("fresh", 3)`;
different seeds, streams and samples have independent numbers.

The random bits come from `diffcore.states.random_bits`. The key is a hash of seed and stream; the counter consists of
the number of the sample, the name of the field and the position within the field. So numbers are computed for a whole
batch at once, on its device, and nothing is copied there. The first numbers of a field do not depend on its shape: a
tensor with more entries begins with the same numbers, in the order of its memory.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from diffcore.states.placement import to_device
from diffcore.states.random_bits import WORD, Words, philox
from diffcore.states.state import State, fields, first_field, named

Stream = int | str | tuple[int | str, ...]
"""What random numbers are for."""

_AT_ONCE = {"cpu": 2**15, "cuda": 2**22}
"""How many counters are computed together: on a CPU, their words stay in its cache."""


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed computed from numbers and words, such as (seed, purpose, index): each tuple has its own stream."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `seed_of(parts)`, for what is drawn once, such as an order of examples."""
    return torch.Generator().manual_seed(seed_of(*parts))


def normal(seed: int, stream: Stream, samples: Tensor, like: State) -> State:
    """Standard normal numbers of the shape, type and device of `like` `[B, ...]`.

    * `samples`: the numbers of the samples, int64 `[B]`, from 0 to 2^63 - 1. If they are on the device of `like`,
      nothing is copied and nothing waits for the device.

    Two uniform numbers u and w give two normal ones, sqrt(-2 log u) cos(2 pi w) and sqrt(-2 log u) sin(2 pi w) (Box &
    Muller 1958). They are computed in float32 and lie within 6.8 standard deviations; devices may differ by rounding.
    """
    first = first_field(like)
    counts = {name: field[0].numel() if len(field) else 0 for name, field in fields(like).items()}

    def write(words: Words, numbers: Tensor) -> None:
        radius = torch.stack(words[::2]).to(torch.float32).add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = torch.stack(words[1::2]).to(torch.float32).mul_(2 * math.pi / 2**32)
        numbers[..., ::2] = angle.cos().mul_(radius).movedim(0, -1)
        numbers[..., 1::2] = angle.sin_().mul_(radius).movedim(0, -1)

    drawn = _draw(_key(seed, "normal", stream), to_device(samples, first.device), counts, torch.float32, write)
    shaped = {name: drawn[name].view(field.shape).to(field.dtype) for name, field in fields(like).items()}
    return shaped[""] if isinstance(like, Tensor) else named(shaped)


def uniform(
    seed: int, stream: Stream, samples: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform numbers in [0, 1), `[B, *shape]`, on the device of `samples` `[B]`.

    They are multiples of 2^-24 in float32 and of 2^-53 in float64. The two types have different numbers.
    """

    def single(words: Words, numbers: Tensor) -> None:
        for index, word in enumerate(words):
            numbers[..., index] = word >> 8
        numbers.mul_(2.0**-24)

    def double(words: Words, numbers: Tensor) -> None:
        for index in (0, 1):
            numbers[..., index] = (words[2 * index] >> 5 << 26) + (words[2 * index + 1] >> 6)
        numbers.mul_(2.0**-53)

    key, write = _key(seed, "uniform", stream), double if dtype == torch.float64 else single
    per_counter = 2 if dtype == torch.float64 else 4
    return _draw(key, samples, {"": math.prod(shape)}, dtype, write, per_counter)[""].view(len(samples), *shape)


def integers(seed: int, stream: Stream, samples: Tensor, high: int, shape: Sequence[int] = ()) -> Tensor:
    """Uniform integers from 0 to `high` - 1, int64 `[B, *shape]`, on the device of `samples`; `high` is below 2^31.

    An integer is floor(high w / 2^64), where w has 64 random bits.
    """

    def write(words: Words, numbers: Tensor) -> None:
        for index in (0, 1):
            upper, lower = words[2 * index], words[2 * index + 1]
            numbers[..., index] = (upper * high + (lower * high >> 32)) >> 32

    key = _key(seed, "integers", stream)
    return _draw(key, samples, {"": math.prod(shape)}, torch.int64, write, 2)[""].view(len(samples), *shape)


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch of samples: each stream gives numbers of its own, always the same ones.

    * `seed`: the seed of all samples.
    * `samples`: the numbers of the samples, int64 `[B]`, on the device where random numbers are needed.
    """

    seed: int
    samples: Tensor

    @classmethod
    def of(cls, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> "Draws":
        """The random numbers of the samples `indices` of `seed`."""
        if isinstance(indices, range):
            return cls(seed, torch.arange(indices.start, indices.stop, indices.step, device=device))
        return cls(seed, to_device(torch.tensor(indices, dtype=torch.int64), torch.device(device)))

    @classmethod
    def fresh(cls, batch: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> "Draws":
        """The random numbers of `batch` samples of a seed that a generator of PyTorch draws, the global one if None."""
        return cls.of(int(torch.randint(2**62, (), generator=generator)), range(batch), device)

    def normal(self, stream: Stream, like: State) -> State:
        """Standard normal numbers of the shape, type and device of `like` `[B, ...]`, see `normal`."""
        return normal(self.seed, stream, self.samples, like)

    def uniform(self, stream: Stream, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in [0, 1), `[B, *shape]`, see `uniform`."""
        return uniform(self.seed, stream, self.samples, shape, dtype)

    def integers(self, stream: Stream, high: int, *shape: int) -> Tensor:
        """Uniform integers from 0 to `high` - 1, int64 `[B, *shape]`, see `integers`."""
        return integers(self.seed, stream, self.samples, high, shape)


def _key(seed: int, kind: str, stream: Stream) -> int:
    """The key of a stream. Kinds of numbers have different keys, so that none are functions of others."""
    return seed_of(seed, kind, *(stream if isinstance(stream, tuple) else (stream,)))


def _word(name: str) -> int:
    """A word that stands for the name of a field."""
    return seed_of("field", name) & WORD


def _draw(
    key: int,
    samples: Tensor,
    counts: Mapping[str, int],
    dtype: torch.dtype,
    write: Callable[[Words, Tensor], None],
    per_counter: int = 4,
) -> dict[str, Tensor]:
    """`counts` numbers of each sample, `[B, count]` by name.

    `write(words, numbers)` computes `numbers` `[B, N, per_counter]` from the words `[B, N]` of N counters. All fields
    are computed together.
    """
    device, batch = samples.device, len(samples)
    ends = list(accumulate(-(-count // per_counter) for count in counts.values()))
    starts, total = [0, *ends[:-1]], ends[-1]
    block = torch.arange(total, device=device)
    field = torch.empty_like(block)
    for name, start, end in zip(counts, starts, ends, strict=True):
        block[start:end].sub_(start)
        field[start:end].fill_(_word(name))
    lower, upper = samples[:, None] & WORD, samples[:, None] >> 32 & WORD
    numbers = torch.empty(batch, total, per_counter, dtype=dtype, device=device)
    at_once = _AT_ONCE.get(device.type, 2**22)
    columns = max(1, min(total, at_once))
    rows = max(1, at_once // columns)
    for top in range(0, batch, rows):
        down = slice(top, top + rows)
        for left in range(0, total, columns):
            across = slice(left, left + columns)
            # In this order, the first rounds of Philox combine words of samples with each other, and words of blocks.
            write(philox((block[across], lower[down], upper[down], field[across]), key), numbers[down, across])
    flat = numbers.flatten(1)
    return {
        name: flat[:, start * per_counter : start * per_counter + count].contiguous()
        for (name, count), start in zip(counts.items(), starts, strict=True)
    }
