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
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.states.placement import to_device
from diffcore.states.random_bits import WORD, Words, philox, round_keys
from diffcore.states.state import State, fields, first_field, named

Stream = int | str | tuple[int | str, ...]
"""What random numbers are for."""

_AT_ONCE = {"cpu": 2**15, "cuda": 2**22}
"""How many counters are computed together.

On a CPU, their words stay in its cache, and PyTorch computes tensors of up to 2^15 numbers in the calling thread. More
threads would have to meet after each of a hundred operations, which takes long where other processes use the cores.
"""


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed computed from numbers and words, such as (seed, purpose, index): each tuple has its own stream.

    Equal whole numbers give equal seeds, whatever their type. Raises `UserError` for a number that is not whole.
    """
    known = tuple(part if isinstance(part, str) else seed_number(part) for part in parts)
    digest = hashlib.blake2b(repr(known).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_number(seed: Any) -> int:
    """A seed as an `int`: integers of NumPy and scalar tensors of integers are the same seed as the number.

    Raises `UserError` if it is not a whole number.
    """
    try:
        return int(operator.index(seed))
    except TypeError:
        raise UserError(f"`seed` {seed!r}: a seed is a whole number") from None


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
    samples = to_device(samples, first_field(like).device)
    counts = {name: field[0].numel() if len(field) else 0 for name, field in fields(like).items()}
    blocks = _blocks(counts, 4)
    planes = torch.empty(4, len(samples), sum(blocks.values()), device=samples.device, dtype=torch.float32)
    for where, words in _words(_keys(seed, "normal", stream), samples, blocks):
        for plane, word in zip(planes, (words[0], words[2], words[1], words[3]), strict=True):
            plane[where] = word
    radius = planes[:2].add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = planes[2:].mul_(2 * math.pi / 2**32)
    numbers = torch.empty(*planes.shape[1:], 4, device=samples.device, dtype=torch.float32)
    numbers[..., ::2] = angle.cos().mul_(radius).movedim(0, -1)
    numbers[..., 1::2] = angle.sin_().mul_(radius).movedim(0, -1)
    drawn = _split(numbers, counts, blocks)
    shaped = {name: drawn[name].view(field.shape).to(field.dtype) for name, field in fields(like).items()}
    return shaped[""] if isinstance(like, Tensor) else named(shaped)


def uniform(
    seed: int, stream: Stream, samples: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform numbers in [0, 1), `[B, *shape]`, on the device of `samples` `[B]`.

    They are multiples of 2^-24 in float32 and of 2^-53 in float64. The two types have different numbers.
    """
    counts, double = {"": math.prod(shape)}, dtype == torch.float64
    blocks = _blocks(counts, 2 if double else 4)
    numbers = torch.empty(len(samples), blocks[""], 2 if double else 4, dtype=dtype, device=samples.device)
    for where, words in _words(_keys(seed, "uniform", stream), samples, blocks):
        if double:
            whole = [(words[index] >> 5 << 26) + (words[index + 1] >> 6) for index in (0, 2)]
        else:
            whole = [word >> 8 for word in words]
        for index, bits in enumerate(whole):
            numbers[..., index][where] = bits.to(dtype).mul_(2.0**-53 if double else 2.0**-24)
    return _split(numbers, counts, blocks)[""].view(len(samples), *shape)


def integers(seed: int, stream: Stream, samples: Tensor, high: int, shape: Sequence[int] = ()) -> Tensor:
    """Uniform integers from 0 to `high` - 1, int64 `[B, *shape]`, on the device of `samples`; `high` is below 2^31.

    An integer is floor(high w / 2^64), where w has 64 random bits. Raises `ValueError` for another `high`.
    """
    if not 0 < high < 2**31:
        raise ValueError(f"`high` {high}: random integers are drawn below a number from 1 to 2^31 - 1")
    counts = {"": math.prod(shape)}
    blocks = _blocks(counts, 2)
    numbers = torch.empty(len(samples), blocks[""], 2, dtype=torch.int64, device=samples.device)
    for where, words in _words(_keys(seed, "integers", stream), samples, blocks):
        for index in (0, 1):
            upper, lower = words[2 * index], words[2 * index + 1]
            numbers[..., index][where] = (upper * high + (lower * high >> 32)) >> 32
    return _split(numbers, counts, blocks)[""].view(len(samples), *shape)


TRY = 2**40
"""Where samples are drawn again with other noise, sample number i + t TRY is the try t of sample i."""


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


def _keys(seed: int, kind: str, stream: Stream) -> Tensor:
    """The keys of a stream. Kinds of numbers have different keys, so that none are functions of others."""
    parts = (seed, kind, *(stream if isinstance(stream, tuple) else (stream,)))
    if not torch.compiler.is_compiling():
        return round_keys(seed_of(*parts))
    words = [f"={part}" if isinstance(part, str) else "" for part in parts]
    keys: Tensor = _hashed(_BETWEEN.join(words), [part for part in parts if not isinstance(part, str)])
    return keys


_BETWEEN = "\0"


@torch.library.custom_op("diffcore::hashed", mutates_args=())
def _hashed(words: str, numbers: list[int]) -> Tensor:
    """`round_keys(seed_of(...))` as an operation of PyTorch: its compiler cannot see into the hash.

    `words` are the parts in order, each word after "=", and empty for a number; `numbers` are the numbers.
    """
    left = iter(numbers)
    return round_keys(seed_of(*(word[1:] if word else next(left) for word in words.split(_BETWEEN))))


@_hashed.register_fake
def _(words: str, numbers: list[int]) -> Tensor:
    return round_keys(0)


def _word(name: str) -> int:
    """A word that stands for the name of a field."""
    return seed_of("field", name) & WORD


# As `torch.compiler.assume_constant_result` does, which would import the compiler: it cannot see into the hash.
_word._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _blocks(counts: Mapping[str, int], per_block: int) -> dict[str, int]:
    """How many blocks of `per_block` numbers the fields need, by name; a block is what one counter gives."""
    return {name: -(-count // per_block) for name, count in counts.items()}


def _words(keys: Tensor, samples: Tensor, blocks: Mapping[str, int]) -> Iterator[tuple[tuple[slice, slice], Words]]:
    """The words of the blocks of all fields of each sample, in pieces: where in `[B, blocks]` one is, and its words.

    The counter of a block consists of its number in its field, the sample and the name of the field.
    """
    device, total, start = samples.device, sum(blocks.values()), 0
    block = torch.arange(total, device=device)
    field = torch.empty_like(block)
    for name, number in blocks.items():
        block[start : start + number].sub_(start)
        field[start : start + number].fill_(_word(name))
        start += number
    lower, upper = samples[:, None] & WORD, samples[:, None] >> 32 & WORD
    at_once = _AT_ONCE.get(device.type, 2**22)
    columns = max(1, min(total, at_once))
    rows = max(1, at_once // columns)
    for top in range(0, len(samples), rows):
        down = slice(top, top + rows)
        for left in range(0, total, columns):
            across = slice(left, left + columns)
            # In this order, the first rounds of Philox combine words of samples with each other, and words of blocks.
            yield (down, across), philox((block[across], lower[down], upper[down], field[across]), keys)


def _split(numbers: Tensor, counts: Mapping[str, int], blocks: Mapping[str, int]) -> dict[str, Tensor]:
    """The first numbers of each field, `[B, count]` by name, of those of all blocks `[B, blocks, per_block]`."""
    pieces = numbers.split(list(blocks.values()), 1)
    return {
        name: piece.flatten(1)[:, :count].contiguous()
        for (name, count), piece in zip(counts.items(), pieces, strict=True)
    }
