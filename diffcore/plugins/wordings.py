"""Attributes in words, and back: for data sets that write sentences of what they know about their examples.

A table of wordings has the ways to say each value of each attribute:

    WORDINGS = {"length": {"short": ("short", "brief"), "long": ("long", "drawn out")}, "pitch": {...}}

The values of a batch are int64 `[N]` for each attribute: the number of the value in the table, or `UNSAID`. `said`
chooses wordings at random, a data set makes sentences of them, and `read` finds them in sentences again.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Generator, Tensor

from diffcore.denoising.words import words_of

Wordings = Mapping[str, Mapping[str, Sequence[str]]]
"""The wordings of each value, by attribute and value."""

Values = Mapping[str, Tensor]
"""The numbers of the values of N examples, int64 `[N]`, by attribute."""

UNSAID = -1
"""The number for an attribute that a sentence does not say, or that an example does not have."""


def said(values: Values, wordings: Wordings, generator: Generator, left_out: float = 0.0) -> list[dict[str, str]]:
    """For each example, a wording of each of its values, drawn at random.

    Attributes that are `UNSAID` are missing, and of the others each one is missing with the probability `left_out`.
    """
    rows: list[dict[str, str]] = [{} for _ in next(iter(values.values()))]
    for name, numbers in values.items():
        drawn = torch.rand(2, len(numbers), generator=generator).tolist()
        ways = [*wordings[name].values()]
        for row, number, u, kept in zip(rows, numbers.tolist(), *drawn, strict=True):
            if number != UNSAID and kept >= left_out:
                row[name] = one_of(ways[number], u)
    return rows


def one_of(ways: Sequence[str], u: float) -> str:
    """One of several wordings, by a number u in [0, 1)."""
    return ways[int(u * len(ways))]


def with_article(noun: str) -> str:
    """The noun, with its adjectives, after "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def read(sentences: Sequence[str], wordings: Wordings) -> dict[str, Tensor]:
    """The values that sentences say, `UNSAID` where they say none; of several of an attribute, the first one.

    Where wordings overlap, the longest one counts. Upper case and punctuation do not matter.
    """
    table = {
        tuple(words_of(way)): (name, number)
        for name, values in wordings.items()
        for number, ways in enumerate(values.values())
        for way in ways
    }
    longest = max(map(len, table))
    known = {sentence: dict(reversed([*_found(words_of(sentence), table, longest)])) for sentence in set(sentences)}
    return {name: torch.tensor([known[each].get(name, UNSAID) for each in sentences]).long() for name in wordings}


def _found(
    words: Sequence[str], table: Mapping[tuple[str, ...], tuple[str, int]], longest: int
) -> Iterable[tuple[str, int]]:
    """The attributes and values of the wordings in a row of words, from the left."""
    place = 0
    while place < len(words):
        for size in range(min(longest, len(words) - place), 0, -1):
            if (value := table.get(tuple(words[place : place + size]))) is not None:
                yield value
                place += size
                break
        else:
            place += 1
