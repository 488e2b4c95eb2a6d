"""WordPiece: the parts of words that BERT knows a text by."""

import unicodedata
from collections.abc import Iterator, Mapping

_LONGEST = 100
"""Longer words are unknown, as in BERT's own tokeniser."""
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def bert_words(text: str) -> list[str]:
    """The words of a text as BERT's uncased models have them: lower case, without accents.

    Each punctuation mark, each other symbol of ASCII and each Chinese character is a word. Control characters are
    removed. Devlin et al. 2019; the same as `BertNormalizer` and `BertPreTokenizer` of Hugging Face's tokenizers.
    """
    spaced = "".join(map(_spaced, text))
    plain = "".join(char for char in unicodedata.normalize("NFD", spaced) if unicodedata.category(char) != "Mn")
    lower = "".join(map(str.lower, plain))  # each for itself: a sigma at the end of a word is no other letter
    return [word for run in lower.split() for word in _split(run)]


def pieces(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """The numbers of the pieces of a word: always the longest piece of the vocabulary that fits; empty if none does.

    Pieces that continue a word begin with `##` in the vocabulary. Wu et al. 2016, section 4.1.
    """
    found: list[int] = []
    start = 0
    while start < len(word) <= _LONGEST:
        for end in range(len(word), start, -1):
            number = vocabulary.get("##" * (start > 0) + word[start:end])
            if number is not None:
                found.append(number)
                start = end
                break
        else:
            return []
    return found


def joined_pieces(words: list[str]) -> str:
    """The text of pieces: those that continue a word follow without a space."""
    return " ".join(words).replace(" ##", "")


def _spaced(char: str) -> str:
    """A character of a text as it enters the normalisation: nothing for control characters."""
    if char in "\t\n\r" or unicodedata.category(char) == "Zs":
        return " "
    if char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cf", "Cs"):
        return ""
    return f" {char} " if any(first <= ord(char) <= last for first, last in _IDEOGRAPHS) else char


def _split(run: str) -> Iterator[str]:
    """The words of a run of characters without spaces; punctuation marks stand alone."""
    word = ""
    for char in run:
        if unicodedata.category(char)[0] == "P" or (char.isascii() and not char.isalnum()):
            if word:
                yield word
            yield char
            word = ""
        else:
            word += char
    if word:
        yield word
