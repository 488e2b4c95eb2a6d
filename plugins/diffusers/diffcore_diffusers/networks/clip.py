"""transformers' `CLIPTextModel` and its tokenizer, as a text encoder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffcore.denoising.inputs import Embedded, Tokens
from diffcore.denoising.text import TextEncoder
from diffcore_diffusers.networks.constructing import constructed
from diffcore_diffusers.options.clip import HfClipOptions, LearnedPieces

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class HfClip(TextEncoder):
    """Pieces of words, which a CLIP makes tokens of. The id of a piece is its number in the vocabulary plus one.

    A text has at most `max_position_embeddings` - 2 pieces: one marks its beginning, and one its end. The weights of
    the CLIP are saved with the network.
    """

    options: HfClipOptions
    known: LearnedPieces

    all_exist = True
    """All tokens exist, also those after the end of a text."""

    @property
    def length(self) -> int:  # type: ignore[override]
        return self.options.max_position_embeddings - 2

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.options.hidden_size

    @property
    def largest(self) -> int:
        return len(self.known.pieces)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer of transformers with this vocabulary."""
        known = self.known
        pairs = [tuple(pair.split(" ")) for pair in known.joined]
        return CLIPTokenizer(
            vocab={piece: number for number, piece in enumerate(known.pieces)},
            merges=pairs,
            unk_token=known.end,
            bos_token=known.begin,
            eos_token=known.end,
            pad_token=known.filling,
            model_max_length=self.options.max_position_embeddings,
        )

    @property
    def digest(self) -> str:
        described = [self.options.model_dump(exclude={"frozen"}), self.known.model_dump()]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    @property
    def learned(self) -> Mapping[str, Any]:
        return self.known.model_dump(mode="json")

    def ids(self, text: str) -> list[int]:
        return [number + 1 for number in self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids]

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode([number - 1 for number in ids if number > 0]))

    def number(self, piece: str) -> int:
        """The number of a piece in the vocabulary."""
        return self.known.pieces.index(piece)

    def embedding(self, width: int) -> nn.Module:
        return HfClipNetwork(self)


class HfClipNetwork(nn.Module):
    """Ids of texts to the hidden states of the last layer, as tokens; its weights have their usual names after `net.`.

    A text is preceded by the piece that begins it, followed by the one that ends it, and filled up to its full length
    with the piece `filling`. All tokens exist, also those after its end, as in Stable Diffusion.
    """

    def __init__(self, encoder: HfClip) -> None:
        super().__init__()
        self.net = constructed("the text encoder hf-clip", CLIPTextModel, config=config_of(encoder))
        if encoder.options.frozen:
            self.net.requires_grad_(False)
        self._length = encoder.length
        self._marks = tuple(
            encoder.number(each) for each in (encoder.known.begin, encoder.known.end, encoder.known.filling)
        )

    def forward(self, ids: Tensor) -> Embedded:
        """Ids `[B, L]`, filled up with 0, to tokens `[B, max_position_embeddings, channels]`."""
        begin, end, filling = self._marks
        ids = functional.pad(ids, (0, self._length - ids.shape[1]))
        whole = functional.pad(torch.where(ids > 0, ids - 1, filling), (1, 1), value=filling)
        whole = whole.scatter(1, (ids > 0).sum(1, keepdim=True) + 1, end)
        whole[:, 0] = begin
        states = self.net(input_ids=whole).last_hidden_state
        return Embedded(None, Tokens(states, torch.ones_like(whole, dtype=torch.bool)))


def config_of(encoder: HfClip) -> CLIPTextConfig:
    """The configuration of `CLIPTextModel`."""
    known, options = encoder.known, encoder.options
    return CLIPTextConfig(
        **options.model_dump(exclude={"vocabulary", "frozen"}),
        vocab_size=len(known.pieces),
        bos_token_id=encoder.number(known.begin),
        eos_token_id=encoder.number(known.end),
        pad_token_id=encoder.number(known.filling),
        projection_dim=options.hidden_size,
    )


def clip(options: HfClipOptions, texts: Sequence[str], learned: Mapping[str, Any] | None) -> HfClip:
    """The text encoder with the pieces of `texts`, or with those that it has `learned` in an earlier run."""
    return HfClip(options, _pieces(texts, options.vocabulary) if learned is None else LearnedPieces(**learned))


def _pieces(texts: Sequence[str], most: int) -> LearnedPieces:
    """The pieces of byte pair encoding (Sennrich et al. 2016) that are most frequent in the texts."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    like = CLIPTokenizer().backend_tokenizer
    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>", unk_token=_END, fuse_unk=False))
    tokenizer.normalizer, tokenizer.pre_tokenizer = like.normalizer, like.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    singles = [*letters, *(f"{letter}</w>" for letter in letters)]
    trainer = BpeTrainer(
        vocab_size=max(most - len(letters), len(letters) + 2),
        special_tokens=[_BEGIN, _END],
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    known = set(pieces)
    return LearnedPieces(
        pieces=(*pieces, *(letter for letter in singles if letter not in known)),  # so that every text can be written
        joined=tuple(" ".join(pair) for pair in model["merges"]),
        **{"begin": _BEGIN, "end": _END, "filling": _END},
    )
