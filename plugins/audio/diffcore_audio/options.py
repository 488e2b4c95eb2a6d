"""Options of the plugin's parts, and what is known of a set of sounds."""

from typing import Literal

from pydantic import Field, model_validator

from diffcore.plugins.records import Place, Settings


class ComplexFacts(Settings):
    """An amplitude-compressed complex short-time Fourier transform: scale |c|^exponent e^(i arg c)."""

    kind: Literal["complex"] = "complex"
    fft: int = Field(ge=2, le=2**20, multiple_of=2)
    """Samples of a window; it gives fft / 2 + 1 frequencies."""
    hop: int = Field(ge=1, le=2**20)
    """Samples from one window to the next."""
    exponent: float = Field(gt=0, le=1)
    scale: float = Field(gt=0)
    """Fitted on the data: states have unit variance."""


class MelFacts(Settings):
    """The logarithm of a mel spectrogram, standardised: (log(max(mel, floor)) - mean) / std."""

    kind: Literal["mel"] = "mel"
    fft: int = Field(ge=2, le=2**20, multiple_of=2)
    hop: int = Field(ge=1, le=2**20)
    mels: int = Field(ge=1, le=4096)
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
    samples: int = Field(ge=1, le=2**26)
    """Length of each sound."""
    channels: Literal[1, 2] = 1
    classes: tuple[str, ...] = ()
    codec: ComplexFacts | MelFacts = Field(discriminator="kind")
    polarity: bool = False
    """Whether training turns waveforms over at random."""


class SoundOptions(Settings):
    """What every data set of sounds can be asked for: how long they are, and as what states."""

    rate: int = Field(16_000, ge=2000, le=192_000, multiple_of=25, description="Samples a second.")
    seconds: float = Field(0.5, gt=0, le=60, description="Length of a sound; it is rounded up to 16 columns.")
    codec: Literal["complex", "mel"] = Field(
        "complex", description="complex: compressed Fourier coefficients, exact. mel: log-mel and a vocoder."
    )
    bands: int | None = Field(None, ge=8, le=4096, description="Rows of a spectrogram: 128 (complex), 64 (mel).")
    hop: int = Field(128, ge=1, description="Samples from one column of a spectrogram to the next.")
    exponent: float = Field(0.3, gt=0, le=1, description="complex: magnitudes are raised to this power.")
    window: int = Field(1024, ge=16, multiple_of=2, description="mel: samples of a window.")
    low: float = Field(0.0, ge=0, description="mel: lowest frequency, Hz.")
    high: float | None = Field(None, gt=0, description="mel: highest frequency, Hz; half the rate if not given.")
    vocoder: str = Field("griffin-lim", description="mel: what turns spectrograms into sounds.")
    polarity: bool = Field(True, description="Turn waveforms over at random in training; nobody hears it.")

    @model_validator(mode="after")
    def _fit(self) -> "SoundOptions":
        if self.codec == "complex" and self.hop > self.rows:
            raise ValueError(f"hop {self.hop} leaves gaps between windows of {self.rows} bands; {self.rows} at most")
        if self.codec == "mel":
            if self.hop > self.window // 2:
                raise ValueError(f"hop {self.hop} is more than half the window of {self.window}")
            if not self.low < self.highest <= self.rate / 2:
                raise ValueError(f"low {self.low:g} < high {self.highest:g} <= rate / 2 = {self.rate / 2:g} must hold")
        return self

    @property
    def rows(self) -> int:
        return self.bands or (128 if self.codec == "complex" else 64)

    @property
    def highest(self) -> float:
        return self.high or self.rate / 2


class DrumsOptions(SoundOptions):
    rate: int = Field(16_000, ge=16_000, le=192_000, multiple_of=25, description="Samples a second.")
    polarity: bool = Field(False, description="Turn waveforms over at random in training; nobody hears it.")
    sounds: int = Field(500, ge=2, description="Sounds of each of the six instruments.")
    seed: int = Field(0, ge=0, description="Which sounds.")
    held_out: float = Field(0.1, gt=0, le=0.5, description="Share kept back for the metrics.")


class FileOptions(SoundOptions):
    """What sets that are read from files have beside."""

    root: Place = Field(None, description="Folder that holds the sounds.")
    limit: int | None = Field(None, ge=1, description="Read so many sounds of each class at most.")
    skip_unreadable: bool = Field(False, description="Leave out files that cannot be used, instead of stopping.")


class FolderOptions(FileOptions):
    channels: Literal[1, 2] = Field(1, description="1: stereo files are mixed. 2: both channels are kept.")
    trim: bool = Field(True, description="Cut what is below -60 dB of a sound's peak at its beginning.")
    held_out: float = Field(
        0.1, gt=0, le=0.5, description="Share kept back for the metrics, where there is no test folder."
    )


class SpeechOptions(FileOptions):
    seconds: float = Field(1.0, gt=0, le=60, description="Length of a sound; it is rounded up to 16 columns.")
    polarity: bool = Field(False, description="Turn waveforms over at random in training; nobody hears it.")
    download: bool = Field(False, description="Fetch the set into root where it is missing.")
