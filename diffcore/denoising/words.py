"""The text encoder `words`: a vocabulary of the data's own words, and a small transformer that is trained."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from torch import nn

from diffcore.denoising.text import TextEncoder, shown
from diffcore.denoising.word_network import WordNetwork
from diffcore.errors import UserError


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters and digits in lower case, and each symbol, such as $, + or an emoji, alone.

    Punctuation and spaces separate words and are ignored, except for an apostrophe within a word. A character of a
    script that is written without spaces, such as Chinese, is a word. Characters that look alike in Unicode's
    compatibility form (NFKC) are the same.
    """
    return list(_split(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())))


def _split(text: str) -> Iterator[str]:
    word = ""
    for place, char in enumerate(text):
        kind = unicodedata.category(char)
        alone = kind in ("Sc", "So") or char == "+" or _is_ideograph(char)
        inside = kind[0] in "LMN" or char == "_"
        joins = char in "'\u2019" and word and text[place + 1 : place + 2].isalpha()
        if (inside and not alone) or joins:
            word += "'" if joins else char
            continue
        if word:
            yield word
            word = ""
        if alone:
            yield char
    if word:
        yield word


def _is_ideograph(char: str) -> bool:
    """Whether a script writes this character without spaces between words: Chinese, Japanese or Thai."""
    point = ord(char)
    return any(first <= point <= last for first, last in ((0x0E00, 0x0E7F), (0x3040, 0x30FF), (0x3400, 0x9FFF)))


def vocabulary(texts: Iterable[str], most: int) -> tuple[str, ...]:
    """The words of all texts in alphabetical order, at most `most` of them: the most frequent."""
    counts = Counter(word for text in texts for word in words_of(text))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:most]
    return tuple(sorted(frequent))


@dataclass(frozen=True)
class Words(TextEncoder):
    """Words of a vocabulary, each with a learned vector, in a small transformer that is trained with the denoiser.

    The id of a word is its place in `vocabulary`, counted from 1.

    * `vocabulary`: the words, in lower case.
    * `length`: the largest number of words of a text.
    * `channels`, `layers`, `heads`: the size of the transformer.
    """

    vocabulary: tuple[str, ...]
    length: int
    channels: int = 64
    layers: int = 2
    heads: int = 4

    def __hash__(self) -> int:
        return hash((self.digest, self.length, self.channels, self.layers, self.heads))

    @property
    def largest(self) -> int:
        """The number of words."""
        return len(self.vocabulary)

    @cached_property
    def _index(self) -> Mapping[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary, 1)}

    @cached_property
    def digest(self) -> str:
        """A SHA-256 of the vocabulary."""
        return hashlib.sha256("\n".join(self.vocabulary).encode()).hexdigest()

    @property
    def learned(self) -> Mapping[str, Any]:
        return {"vocabulary": list(self.vocabulary), "length": self.length}

    def ids(self, text: str) -> list[int]:
        """The ids of the words. Raises `UserError` that names the first word which no training example has."""
        words = words_of(text)
        unknown = list(dict.fromkeys(word for word in words if word not in self._index))
        if unknown:
            near = get_close_matches(unknown[0], self.vocabulary, 3, 0.6)
            instead = f"; the nearest words are {_listed(near)}" if near else f"; it knows {self._some()}"
            more = f" (nor {_listed(unknown[1:6])})" if unknown[1:] else ""
            raise UserError(f"the model does not know the word {shown(unknown[0])}{more}{instead}")
        return [self._index[word] for word in words]

    def known_ids(self, text: str) -> list[int]:
        return [self._index[word] for word in words_of(text) if word in self._index]

    def text(self, ids: Sequence[int]) -> str:
        return " ".join(self.vocabulary[number - 1] for number in ids if 0 < number <= len(self.vocabulary))

    def embedding(self, width: int) -> nn.Module:
        return WordNetwork(len(self.vocabulary), self.length, self.channels, self.layers, self.heads, width)

    def _some(self) -> str:
        shown = ", ".join(self.vocabulary[:12])
        more = len(self.vocabulary) - 12
        return f"{shown} and {more:,} more words" if more > 0 else shown


def _listed(words: Sequence[str]) -> str:
    return ", ".join(map(shown, words))
