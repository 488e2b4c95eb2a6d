"""The text encoder `minilm`: sentences as a frozen, pretrained BERT knows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.bert import Bert
from diffcore.denoising.frozen_text import FrozenText
from diffcore.denoising.inputs import Embedded, Tokens
from diffcore.denoising.text import TextEncoder, shown
from diffcore.denoising.wordpiece import bert_words, joined_pieces, pieces
from diffcore.errors import UserError


@dataclass(frozen=True)
class MiniLM(TextEncoder):
    """Pieces of words, whose hidden states a frozen BERT computes; linear maps to the network are trained.

    The id of a piece is its place in `vocabulary`, counted from 0, where the place 0 is that of the padding.

    * `sha256`: a digest of the weights and the vocabulary.
    * `length`: the largest number of pieces of a text.
    * `channels`: the channels of the tokens.
    * `vocabulary`, `bert`: what the digest stands for.
    """

    sha256: str
    length: int
    channels: int = 64
    vocabulary: tuple[str, ...] = field(default=(), compare=False, repr=False)
    bert: Bert | None = field(default=None, compare=False, repr=False)

    @property
    def largest(self) -> int:
        """The place of the last piece."""
        return len(self.vocabulary) - 1

    @cached_property
    def _index(self) -> Mapping[str, int]:
        return {piece: number for number, piece in enumerate(self.vocabulary)}

    @property
    def digest(self) -> str:
        """A SHA-256 of the weights and the vocabulary."""
        return self.sha256

    @property
    def learned(self) -> Mapping[str, Any]:
        return {"length": self.length}

    def ids(self, text: str) -> list[int]:
        """The ids of the pieces of all words. Raises `UserError` that names a word whose characters are unknown."""
        found = []
        for word in bert_words(text):
            if not (of_word := pieces(word, self._index)):
                raise UserError(f"the text encoder minilm cannot read {shown(word)}: write it in other characters")
            found += of_word
        return found

    def known_ids(self, text: str) -> list[int]:
        return [number for word in bert_words(text) for number in pieces(word, self._index)]

    def text(self, ids: Sequence[int]) -> str:
        return joined_pieces([self.vocabulary[number] for number in ids if 0 < number < len(self.vocabulary)])

    def embedding(self, width: int) -> nn.Module:
        if self.bert is None:
            raise ValueError("this encoder was made without its network")
        frozen = FrozenText(self.bert, self._index["[CLS]"], self._index["[SEP]"])
        return MiniLMNetwork(frozen, self.channels, width)


class MiniLMNetwork(nn.Module):
    """Tokens and a vector for texts, linear in the normalised hidden states of a frozen network.

    The hidden states of the pieces of a text become the tokens `[B, L', channels]`, and their mean (that of
    Sentence-BERT, Reimers & Gurevych 2019, section 3) the vector `[B, width]`.
    """

    def __init__(self, frozen: FrozenText, channels: int, width: int) -> None:
        super().__init__()
        self.frozen = frozen
        self.tokens = nn.Linear(frozen.width, channels)
        self.vector = nn.Linear(frozen.width, width)

    def keep_texts(self, ids: Tensor) -> None:
        """Encode all texts `[n, L]` of the training examples once; training looks them up."""
        self.frozen.keep(ids)

    def forward(self, ids: Tensor) -> Embedded:
        """Ids `[B, L]` to tokens and a vector."""
        hidden = self.frozen.kept(ids) if self.training else self.frozen.hidden(ids)
        states, mean = (functional.layer_norm(each, each.shape[-1:]) for each in (hidden.pieces, hidden.mean))
        return Embedded(self.vector(mean), Tokens(self.tokens(states), hidden.mask))
