"""Options of the plugin's data sets, and the facts about a set of sounds that are saved with a run."""

from typing import Literal

from pydantic import Field, model_validator

from diffcore.names import ClassLevel
from diffcore.plugins.records import Place, Settings


class ComplexFacts(Settings):
    """Settings of a complex spectrogram scale |c|^exponent e^(i arg c), with c the short-time Fourier transform."""

    kind: Literal["complex"] = "complex"
    fft: int = Field(ge=2, le=2**20, multiple_of=2)
    """Length of a window in samples, for fft / 2 + 1 frequencies."""
    hop: int = Field(ge=1, le=2**20)
    """Samples from one window to the next."""
    exponent: float = Field(gt=0, le=1)
    scale: float = Field(gt=0)
    """Fitted to the data, so that states have unit variance."""


class MelFacts(Settings):
    """Settings of a standardised log-mel spectrogram (log(max(mel, floor)) - mean) / std."""

    kind: Literal["mel"] = "mel"
    fft: int = Field(ge=2, le=2**20, multiple_of=2)
    hop: int = Field(ge=1, le=2**20)
    mels: int = Field(ge=1, le=4096)
    low: float = Field(ge=0)
    """Lowest frequency, in Hz."""
    high: float = Field(gt=0)
    """Highest frequency, in Hz."""
    floor: float = Field(gt=0)
    """Smallest mel magnitude; smaller ones are replaced by it."""
    mean: float
    std: float = Field(gt=0)
    vocoder: str
    """What converts a spectrogram to a waveform: `griffin-lim`, or the name of an installed vocoder."""


class SoundFacts(Settings):
    """What the codec needs to know of the sounds that a model was trained on. It is saved with each run."""

    rate: int = Field(ge=1)
    """Sampling rate, in Hz."""
    samples: int = Field(ge=1, le=2**26)
    """Length of each sound, in samples."""
    channels: Literal[1, 2] = 1
    classes: tuple[str, ...] = ()
    codec: ComplexFacts | MelFacts = Field(discriminator="kind")
    polarity: bool = False
    """Whether training inverts the sign of waveforms at random."""


class SoundOptions(Settings):
    """Options of all data sets of sounds: their length and rate, and the spectrogram that is diffused."""

    rate: int = Field(16_000, ge=2000, le=192_000, multiple_of=25, description="Sampling rate in Hz.")
    seconds: float = Field(
        0.5, gt=0, le=60, description="Length of a sound; rounded up to a multiple of 16 spectrogram columns."
    )
    codec: Literal["complex", "mel"] = Field(
        "complex",
        description="Spectrogram: complex (compressed Fourier transform, exactly invertible) or mel (needs a vocoder).",
    )
    bands: int | None = Field(
        None, ge=8, le=4096, description="Frequency bands of a spectrogram; 128 (complex) or 64 (mel) if not given."
    )
    hop: int = Field(128, ge=1, description="Samples from one column of a spectrogram to the next.")
    exponent: float = Field(0.3, gt=0, le=1, description="complex only: magnitudes are raised to this power.")
    window: int = Field(1024, ge=16, multiple_of=2, description="mel only: length of a window in samples.")
    low: float = Field(0.0, ge=0, description="mel only: lowest frequency in Hz.")
    high: float | None = Field(None, gt=0, description="mel only: highest frequency in Hz; half the rate if not given.")
    vocoder: str = Field(
        "griffin-lim", description="mel only: converts spectrograms to sounds; griffin-lim or an installed vocoder."
    )
    polarity: bool = Field(
        True, description="Invert the sign of waveforms at random during training, which is inaudible."
    )

    @model_validator(mode="after")
    def _fit(self) -> "SoundOptions":
        if self.codec == "complex" and self.hop > self.rows:
            raise ValueError(
                f"`data.hop` {self.hop} leaves gaps between the windows of {self.rows} bands; use {self.rows} or less"
            )
        if self.codec == "mel":
            if self.hop > self.window // 2:
                raise ValueError(
                    f"`data.hop` {self.hop} is more than half of `data.window` {self.window}; "
                    f"use {self.window // 2} or less"
                )
            if not self.low < self.highest <= self.rate / 2:
                raise ValueError(
                    "`data.low` < `data.high` <= `data.rate` / 2 is required; "
                    f"they are {self.low:g}, {self.highest:g} and {self.rate / 2:g} Hz"
                )
        return self

    @property
    def rows(self) -> int:
        """Frequency bands of a spectrogram."""
        return self.bands or (128 if self.codec == "complex" else 64)

    @property
    def highest(self) -> float:
        """Highest frequency of a mel spectrogram, in Hz."""
        return self.high or self.rate / 2


class DrumsOptions(SoundOptions):
    """Options of the data set `drums`."""

    rate: int = Field(16_000, ge=16_000, le=192_000, multiple_of=25, description="Sampling rate in Hz.")
    polarity: bool = Field(
        False, description="Invert the sign of waveforms at random during training, which is inaudible."
    )
    sounds: int = Field(500, ge=2, description="Number of sounds of each of the six instruments.")
    seed: int = Field(0, ge=0, description="Seed of the random parameters of the sounds.")
    held_out: float = Field(
        0.1, gt=0, le=0.5, description="Fraction of the sounds that is held out of training, for evaluation."
    )


class FileOptions(SoundOptions):
    """Options of all data sets that are read from files."""

    root: Place = Field(None, description="Folder that contains the sounds.")
    limit: int | None = Field(None, ge=1, description="Largest number of files of each class that are read.")
    skip_unreadable: bool = Field(False, description="Leave out files that cannot be used, instead of stopping.")


class FolderOptions(FileOptions):
    """Options of the data set `folder`."""

    class_level: ClassLevel = Field(
        "auto",
        description="Which folders are classes: the first (outermost), the last (innermost), none, or as they look.",
    )
    channels: Literal[1, 2] = Field(1, description="1: mix stereo files to mono. 2: keep both channels.")
    trim: bool = Field(True, description="Cut the initial part of each sound that is more than 60 dB below its peak.")
    held_out: float = Field(
        0.1, gt=0, le=0.5, description="Fraction that is held out for evaluation if there is no test folder."
    )


class SpeechOptions(FileOptions):
    """Options of the data sets `sc09` and `speechcommands`."""

    seconds: float = Field(
        1.0, gt=0, le=60, description="Length of a sound; rounded up to a multiple of 16 spectrogram columns."
    )
    polarity: bool = Field(
        False, description="Invert the sign of waveforms at random during training, which is inaudible."
    )
    download: bool = Field(False, description="Download the data set into the folder of root if it is not there.")
