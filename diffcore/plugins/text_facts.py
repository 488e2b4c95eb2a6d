"""What is saved of the texts of a data set with a run. Importing this module imports no torch."""

from typing import Annotated, Any

from pydantic import Field

from diffcore.plugins.records import Settings

MOST_SAMPLES = 256
"""The largest number of texts of examples that a run keeps, for pictures of samples."""


class TextFacts(Settings):
    """What the codec needs to know of the texts that a model was trained with.

    The facts of a kind of data whose examples may have captions have it as the field `text`, by default None. The core
    fills it in when a data set has texts.
    """

    encoder: str = Field(max_length=200)
    """The name of the text encoder."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The options of the text encoder."""
    learned: dict[str, Any] = Field(default_factory=dict)
    """What the text encoder has learned of the texts, such as their vocabulary."""
    digest: str = Field(max_length=200)
    """The digest of the text encoder; a run with another one is refused."""
    samples: tuple[Annotated[str, Field(max_length=10_000)], ...] = ()
    """Texts of training examples, for pictures of samples."""
