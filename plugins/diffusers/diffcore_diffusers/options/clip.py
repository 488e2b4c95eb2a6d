"""Options of the text encoder `hf-clip`, and what it learns of texts."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffcore.plugins.records import Settings

_Piece = Annotated[str, Field(min_length=1, max_length=10_000)]


class HfClipOptions(Settings):
    """Options of the text encoder `hf-clip`, by the names of transformers' `CLIPTextModel`."""

    hidden_size: int = Field(64, ge=1, le=8192, description="Channels of each token.")
    intermediate_size: int = Field(256, ge=1, le=65_536, description="Channels inside of a block, between two layers.")
    num_hidden_layers: int = Field(2, ge=1, le=128, description="Blocks of self-attention.")
    num_attention_heads: int = Field(4, ge=1, le=256, description="Heads of self-attention; they divide the channels.")
    max_position_embeddings: int = Field(
        77, ge=3, le=4096, description="Parts of words of a text that are used, with the two that begin and end it."
    )
    hidden_act: Literal["quick_gelu", "gelu"] = Field("quick_gelu", description="Activation function.")
    layer_norm_eps: float = Field(1e-5, gt=0, description="Added to variances in normalisations.")
    vocabulary: int = Field(
        2000, ge=520, le=200_000, description="Parts of words that are learned of the texts, at most."
    )
    frozen: bool = Field(False, description="Keep the weights of the encoder as they are in training.")

    @model_validator(mode="after")
    def _divides(self) -> "HfClipOptions":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("num_attention_heads must divide hidden_size")
        return self


class LearnedPieces(Settings):
    """The pieces of words that texts are made of, by their number, and which pairs of them are joined, in order."""

    pieces: tuple[_Piece, ...] = Field(min_length=4, max_length=200_000)
    joined: tuple[_Piece, ...] = Field(max_length=200_000)
    begin: _Piece
    end: _Piece
    filling: _Piece

    @model_validator(mode="after")
    def _complete(self) -> "LearnedPieces":
        known = set(self.pieces)
        for mark in (self.begin, self.end, self.filling):
            if mark not in known:
                raise ValueError(f"{mark!r} is not one of the pieces")
        if len(known) < len(self.pieces):
            raise ValueError("a piece occurs twice")
        for pair in self.joined:
            first, separated, second = pair.partition(" ")
            if not separated or not {first, second, first + second} <= known:
                raise ValueError(f"{pair[:80]!r} is not a pair of pieces that makes a piece")
        return self
