"""Random bits as a function of a counter and a key: the generator Philox-4x32 with ten rounds.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". There is no state: any counter can be asked for, in
any order and on any device, and the bits of different counters and keys are independent. It is integer arithmetic, so
all devices give the same bits.
"""

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
"""The largest word: words are integers of 32 bits, held in int64."""

_FACTORS = (0xD2511F53, 0xCD9E8D57)
_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# As tensors without axes, which any device takes as numbers, constants cost half of what Python's integers cost.
_MASK, _HALF, _FACTOR_0, _FACTOR_1 = (torch.tensor(number) for number in (WORD, 32, *_FACTORS))

Words = tuple[Tensor, Tensor, Tensor, Tensor]
"""Four words of 32 bits each, int64 tensors with values in [0, 2^32)."""


def round_keys(key: int) -> Tensor:
    """The halves of a key of 64 bits in each round, int64 `[20]`: k0 and k1 of the first round, then of the second."""
    halves = [
        (half + number * step) & WORD
        for number in range(_ROUNDS)
        for half, step in zip((key & WORD, key >> 32), _STEPS, strict=True)
    ]
    return torch.tensor(halves)


def philox(counter: Words, keys: Tensor) -> Words:
    """The four random words of each counter.

    * `counter`: four int64 tensors that broadcast to one shape, the shape of each of the words returned.
    * `keys`: the `round_keys` of a key, on the CPU; each key has a sequence of its own.

    A round replaces the words (x0, x1, x2, x3) by (high(M1 x2) ^ x1 ^ k0, low(M1 x2), high(M0 x0) ^ x3 ^ k1,
    low(M0 x0)), with the two halves of products of 64 bits, and adds constants to the halves k0 and k1 of the key.
    """
    numbers = keys.unbind()
    rounds = list(zip(numbers[::2], numbers[1::2], strict=True))
    x0, x1, x2, x3 = counter
    # Two rounds before words are combined that vary along different axes: they cost little.
    for k0, k1 in rounds[:2]:
        p0, p1 = x0 * _FACTOR_0, x2 * _FACTOR_1
        x0, x1 = ((p1 >> _HALF) ^ k0) & _MASK ^ x1, p1 & _MASK
        x2, x3 = ((p0 >> _HALF) ^ k1) & _MASK ^ x3, p0 & _MASK
    x0, x1, x2, x3 = (word.contiguous() for word in torch.broadcast_tensors(x0, x1, x2, x3))
    p0, p1 = torch.empty_like(x0), torch.empty_like(x0)
    for k0, k1 in rounds[2:]:
        torch.mul(x0, _FACTOR_0, out=p0)
        torch.mul(x2, _FACTOR_1, out=p1)
        torch.bitwise_right_shift(p1, _HALF, out=x0).bitwise_xor_(x1).bitwise_xor_(k0).bitwise_and_(_MASK)
        torch.bitwise_right_shift(p0, _HALF, out=x2).bitwise_xor_(x3).bitwise_xor_(k1).bitwise_and_(_MASK)
        # x1 and x3 keep the upper halves of the products, which nothing reads, until the end.
        x1, x3, p0, p1 = p1, p0, x1, x3
    return x0, x1.bitwise_and_(_MASK), x2, x3.bitwise_and_(_MASK)
