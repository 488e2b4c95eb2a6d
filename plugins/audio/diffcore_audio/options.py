"""Options of the plugin's parts, and what is known of a set of sounds."""

from typing import Literal

from pydantic import Field

from diffcore.components import Settings


class ComplexFacts(Settings):
    """An amplitude-compressed complex short-time Fourier transform: scale |c|^exponent e^(i arg c)."""

    kind: Literal["complex"] = "complex"
    fft: int = Field(ge=2, multiple_of=2)
    """Samples of a window; it gives fft / 2 + 1 frequencies."""
    hop: int = Field(ge=1)
    """Samples from one window to the next."""
    exponent: float = Field(gt=0, le=1)
    scale: float = Field(gt=0)
    """Fitted on the data: states have unit variance."""


class MelFacts(Settings):
    """The logarithm of a mel spectrogram, standardised: (log(max(mel, floor)) - mean) / std."""

    kind: Literal["mel"] = "mel"
    fft: int = Field(ge=2, multiple_of=2)
    hop: int = Field(ge=1)
    mels: int = Field(ge=1)
    low: float = Field(ge=0)
    """Hz."""
    high: float = Field(gt=0)
    """Hz."""
    floor: float = Field(gt=0)
    mean: float
    std: float = Field(gt=0)
    vocoder: str
    """What makes a waveform of a spectrogram: `griffin-lim`, or the name of an installed vocoder."""


class SoundFacts(Settings):
    """What samples need to know of the sounds a model was trained on."""

    rate: int = Field(ge=1)
    """Samples a second."""
    samples: int = Field(ge=1)
    """Length of each sound."""
    channels: Literal[1, 2] = 1
    classes: tuple[str, ...] = ()
    codec: ComplexFacts | MelFacts = Field(discriminator="kind")
