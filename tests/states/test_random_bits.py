"""The generator of random bits against the vectors of its authors and against Python's integers."""

import pytest
import torch

from diffcore.states.random_bits import WORD, philox, round_keys

# Counter, key and words of philox4x32 with 10 rounds, from the file kat_vectors of Random123 1.14.
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def by_integers(counter, key):
    """Philox-4x32-10 as Salmon et al. 2011 define it, in section 3.3, with Python's integers."""
    x0, x1, x2, x3 = counter
    k0, k1 = key & WORD, key >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = p1 >> 32 ^ x1 ^ k0, p1 & WORD, p0 >> 32 ^ x3 ^ k1, p0 & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return x0, x1, x2, x3


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
def test_words_are_the_published_ones(counter, key, words):
    drawn = philox(tuple(torch.tensor([word]) for word in counter), round_keys(key[1] << 32 | key[0]))
    assert tuple(word.item() for word in drawn) == words


def test_counters_broadcast_and_are_not_changed():
    counter = (torch.tensor([0, 7, WORD]), torch.tensor([[3], [WORD - 1]]), torch.tensor([[0], [5]]), torch.tensor(9))
    before = [word.clone() for word in counter]
    words = torch.stack(philox(counter, round_keys(2**63 - 25)))
    whole = torch.stack(torch.broadcast_tensors(*counter))
    assert words.shape == whole.shape == (4, 2, 3)
    for row, column in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        expected = by_integers(whole[:, row, column].tolist(), 2**63 - 25)
        assert tuple(words[:, row, column].tolist()) == expected
    assert all(torch.equal(word, old) for word, old in zip(counter, before, strict=True))
