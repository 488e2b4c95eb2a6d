"""The text encoders of the core, and their options."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, model_validator

from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Component, Settings, lazy


class WordsOptions(Settings):
    """Options of the text encoder `words`."""

    channels: int = Field(64, ge=8, le=4096, description="Channels of each token.")
    layers: int = Field(2, ge=0, le=24, description="Blocks of self-attention.")
    heads: int = Field(4, ge=1, le=64, description="Heads of self-attention; they divide the channels.")
    length: int = Field(64, ge=1, le=512, description="Words of a text that are used, at most.")
    vocabulary: int = Field(20_000, ge=1, le=30_000, description="Words that are known, at most: the most frequent.")

    @model_validator(mode="after")
    def _divides(self) -> "WordsOptions":
        if self.channels % self.heads:
            raise ValueError(f"heads, {self.heads}, must divide channels, {self.channels}")
        return self


class LearnedWords(Settings):
    """What the text encoder `words` has learned of the captions of a data set."""

    vocabulary: tuple[Annotated[str, Field(min_length=1, max_length=10_000)], ...] = Field(max_length=30_000)
    length: int = Field(ge=1, le=512)


class MiniLMOptions(Settings):
    """Options of the text encoder `minilm`."""

    channels: int = Field(64, ge=8, le=4096, description="Channels of each token.")
    length: int = Field(64, ge=1, le=510, description="Parts of words of a text that are used, at most.")


class LearnedLength(Settings):
    """What the text encoder `minilm` has learned of the captions of a data set."""

    length: int = Field(ge=1, le=510)


@hookimpl
def diffcore_text_encoders() -> Iterable[Component]:
    of = lazy("diffcore.plugins")
    return (
        Component("words", "a small transformer over the words of the data", of("text:words"), WordsOptions),
        Component("minilm", "a pretrained, frozen MiniLM", of("minilm:minilm"), MiniLMOptions),
    )
