"""Options of the plugin's data sets, and the facts about a set of sounds that are saved with a run."""

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from diffcore.names import ClassLevel
from diffcore.plugins.enlarging import EnlargingFacts, EnlargingOptions, indivisible
from diffcore.plugins.records import ClassNames, Place, Settings
from diffcore.plugins.text_facts import TextFacts
from diffcore_audio.signals.mels import frequency_of, mel

SPECTRAL = "spectral"
"""The name of the vocoder without weights, `diffcore_audio.signals.vocoders.spectral`."""

_WINDOW = 0.032
"""Length in seconds of the window of a mel spectrogram, if none is given."""


MOST_VALUES = 2**27
"""The largest number of values in the spectrogram of one sound: 512 MiB as float32."""

LEAST_EXPONENT = 0.01
"""The smallest exponent of a complex spectrogram: a magnitude c is restored as c^(1 / exponent)."""

LEAST_DESCRIBED = 0.3
"""The shortest sounds that can be described in sentences, in seconds: shorter ones are cut before they have decayed."""

_MOST_FILTER_VALUES = 2**23
"""The largest number of values in a table of mel filters."""


class ComplexFacts(Settings):
    """Settings of a complex spectrogram scale |c|^exponent e^(i arg c), with c the short-time Fourier transform."""

    kind: Literal["complex"] = "complex"
    fft: int = Field(ge=2, le=2**16, multiple_of=2)
    """Length of a window in samples, for fft / 2 + 1 frequencies."""
    hop: int = Field(ge=1, le=2**16)
    """Samples from one window to the next."""
    exponent: float = Field(ge=LEAST_EXPONENT, le=1)
    scale: float = Field(ge=1e-10, le=1e10)
    """Fitted to the data, so that states have unit variance."""

    @model_validator(mode="after")
    def _consistent(self) -> "ComplexFacts":
        if self.hop > self.fft // 2 + 1:
            raise ValueError(f"a hop of {self.hop} samples leaves gaps between windows of {self.fft}")
        return self


class MelFacts(Settings):
    """Settings of a standardised log-mel spectrogram (log(max(mel, floor)) - mean) / std."""

    kind: Literal["mel"] = "mel"
    fft: int = Field(ge=2, le=2**16, multiple_of=2)
    hop: int = Field(ge=1, le=2**16)
    mels: int = Field(ge=1, le=4096)
    low: float = Field(ge=0)
    """Lowest frequency, in Hz."""
    high: float = Field(gt=0)
    """Highest frequency, in Hz."""
    floor: float = Field(ge=1e-12, le=1e6)
    """Smallest mel magnitude; smaller ones are replaced by it. A full-scale sine has a magnitude of fft / 4."""
    mean: float = Field(ge=-1000, le=1000)
    std: float = Field(ge=1e-6, le=1000)
    vocoder: str = Field(max_length=1000)
    """What converts a spectrogram to a waveform: `spectral`, `griffin-lim`, or the name of an installed vocoder."""

    @model_validator(mode="after")
    def _consistent(self) -> "MelFacts":
        if not self.low < self.high:
            raise ValueError(f"low must be less than high; they are {self.low:g} and {self.high:g} Hz")
        if self.hop > self.fft // 2:
            raise ValueError(f"a hop of {self.hop} samples is more than half of a window of {self.fft}")
        if self.mels * (self.fft // 2 + 1) > _MOST_FILTER_VALUES:
            raise ValueError(f"{self.mels} mel bands with windows of {self.fft} samples need too much memory")
        return self


class EnvelopeFacts(Settings):
    """Settings of the loudness of a sound over time (`diffcore_audio.signals.envelopes`)."""

    frames: int = Field(ge=2, le=4096)
    """Number of frames of equal length, in each of which the loudness is measured."""
    floor: float = Field(ge=-160, lt=0)
    """Smallest loudness in dBFS."""
    mean: float = Field(ge=-200, le=100)
    """Mean over all frames of the training sounds, in dBFS."""
    std: float = Field(ge=1e-3, le=1000)
    """Standard deviation over all frames of the training sounds, in dB."""


class SoundFacts(EnlargingFacts):
    """What the codec needs to know of the sounds that a model was trained on. It is saved with each run."""

    rate: int = Field(ge=1, le=2**20)
    """Sampling rate, in Hz."""
    samples: int = Field(ge=1, le=2**26)
    """Length of each sound, in samples."""
    channels: Literal[1, 2] = 1
    classes: ClassNames = ()
    codec: ComplexFacts | MelFacts = Field(discriminator="kind")
    polarity: bool = False
    """Whether training inverts the sign of waveforms at random."""
    text: TextFacts | None = None
    """The texts of the sounds, if they have any."""
    described: bool = False
    """Whether the texts are sentences that describe synthesised drums, which a judge can compare with sounds."""
    envelope: EnvelopeFacts | None = None
    """The loudness over time, if it is generated with the sounds."""
    coarse: MelFacts | None = None
    """The spectrogram of lower resolution that the model is given, if it enlarges."""

    @model_validator(mode="after")
    def _consistent(self) -> "SoundFacts":
        if isinstance(self.codec, MelFacts) and self.codec.high > self.rate / 2:
            raise ValueError(f"codec.high {self.codec.high:g} Hz is more than half of the rate {self.rate} Hz")
        values = spectrogram_values(self.samples, self.channels, self.codec.fft, self.codec.hop)
        if values > MOST_VALUES:
            raise ValueError(f"the spectrogram of a sound would have {values:,} values; at most {MOST_VALUES:,}")
        if self.envelope is not None and self.envelope.frames > self.samples:
            raise ValueError(f"{self.envelope.frames} frames of an envelope need as many samples, of {self.samples}")
        if self.samples <= self.codec.fft // 2:
            raise ValueError(f"sounds of {self.samples} samples are shorter than half a window of {self.codec.fft}")
        if (self.coarse is not None) != (self.upscale > 0) or (self.coarse and not self._enlarges(self.coarse)):
            raise ValueError(f"a coarse spectrogram that is smaller by {self.upscale} is needed, with mel bands")
        return self

    def _enlarges(self, coarse: MelFacts) -> bool:
        """Whether the spectrogram has `upscale` times as many bands and columns as the coarse one."""
        if isinstance(self.codec, ComplexFacts) or self.samples <= coarse.fft // 2:
            return False
        fine, few = ((each.mels, self.samples // each.hop + 1) for each in (self.codec, coarse))
        return fine == (self.upscale * few[0], self.upscale * few[1]) and coarse.high <= self.rate / 2

    @property
    def smaller(self) -> "SoundFacts":
        """The facts of the coarse spectrograms, which are states of their own."""
        return self.model_copy(update={"codec": self.coarse, "upscale": 0, "coarse": None})


def spectrogram_values(samples: int, channels: int, fft: int, hop: int) -> int:
    """The number of values, real and imaginary, of the Fourier transform of a sound."""
    return 2 * channels * (fft // 2 + 1) * (samples // hop + 1)


class WritingOptions(Settings):
    """How files of sounds are written."""

    format: Literal["wav", "flac", "ogg"] = Field("wav", description="Format of the files in a folder.")
    bits: Annotated[Literal["16", "24", "float"], BeforeValidator(str)] = Field(
        "16", description="16 or 24 bits, or 32-bit floats, which can exceed full scale; OGG has no such choice."
    )
    gain: float = Field(0.0, ge=-120, le=120, description="Gain of all sounds in dB.")
    fade: float = Field(0.0, ge=0, le=60, description="Duration of a fade-out at the end of each sound, in seconds.")
    dither: bool = Field(
        False, description="Add triangular noise of one step before rounding to 16 or 24 bits, against distortion."
    )

    @model_validator(mode="after")
    def _can_be_stored(self) -> "WritingOptions":
        if self.bits == "float" and self.format != "wav":
            raise ValueError(f"{self.format} files cannot hold floats: use bits 16 or 24, or the format wav")
        return self


class SoundOptions(EnlargingOptions):
    """Options of all data sets of sounds: their length and rate, and the spectrogram that is diffused."""

    rate: int = Field(16_000, ge=2000, le=192_000, description="Sampling rate in Hz.")
    seconds: float = Field(
        0.5, gt=0, le=60, description="Length of a sound; rounded up to a multiple of 16 spectrogram columns."
    )
    codec: Literal["mel", "complex"] = Field(
        "mel",
        description="Spectrogram: mel (small and smooth, needs a vocoder) or complex (compressed Fourier transform, "
        "exactly invertible).",
    )
    bands: int | None = Field(
        None, ge=8, le=4096, description="Frequency bands of a spectrogram; 64 (mel) or 128 (complex) if not given."
    )
    hop: int | None = Field(
        None,
        ge=1,
        description="Samples from one column of a spectrogram to the next; a quarter of the window (mel), or 128 "
        "(complex), if not given.",
    )
    exponent: float = Field(
        0.3, ge=LEAST_EXPONENT, le=1, description="complex only: magnitudes are raised to this power."
    )
    window: int | None = Field(
        None,
        ge=16,
        le=2**16,
        multiple_of=2,
        description="mel only: length of a window in samples; if not given, the power of two that is nearest to 32 ms, "
        "or a larger one if the bands or `data.hop` need it.",
    )
    low: float = Field(0.0, ge=0, description="mel only: lowest frequency in Hz.")
    high: float | None = Field(None, gt=0, description="mel only: highest frequency in Hz; half the rate if not given.")
    floor: float = Field(
        -60.0,
        ge=-160,
        lt=0,
        description="mel only: smaller magnitudes count as silence; in dB relative to those of a full-scale sine.",
    )
    vocoder: str = Field(
        SPECTRAL, description="mel only: converts spectrograms to sounds; spectral, griffin-lim or an installed one."
    )
    polarity: bool = Field(
        True, description="Invert the sign of waveforms at random during training, which is inaudible."
    )
    joint: Literal["envelope"] | None = Field(
        None,
        description="Generate what belongs to a sound with it: envelope, its loudness over time. Either can then be "
        "drawn given the other.",
    )
    frames: int = Field(
        32, ge=2, le=4096, description="joint only: number of frames in which the loudness is measured."
    )
    quietest: float = Field(
        -60.0, ge=-160, lt=0, description="joint only: smallest loudness of a frame, in dB relative to full scale."
    )

    @model_validator(mode="after")
    def _joint(self) -> "SoundOptions":
        if self.joint and self.upscale:
            raise ValueError("`data.upscale` cannot be used with `data.joint`: a sound is enlarged without an envelope")
        changed = [n for n in ("frames", "quietest") if getattr(self, n) != type(self).model_fields[n].default]
        if changed and not self.joint:
            raise ValueError(f"`data.{changed[0]}` is an option of `data.joint` envelope: give it too")
        if self.joint and self.frames > self.seconds * self.rate / 2:
            raise ValueError(f"`data.frames` {self.frames} is too many for sounds of {self.seconds:g} s")
        return self

    @model_validator(mode="after")
    def _divide(self) -> "SoundOptions":
        if self.upscale and self.codec != "mel":
            raise ValueError("`data.upscale` needs `data.codec` mel: a complex spectrogram has no coarse one")
        if reason := indivisible(self.upscale, f"the number of frequency bands, which is {self.rows}", self.rows):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _fit(self) -> "SoundOptions":
        if self.codec == "complex" and self.step > self.rows:
            raise ValueError(
                f"`data.hop` {self.step} leaves gaps between the windows of {self.rows} bands; use {self.rows} or less"
            )
        if self.codec == "mel":
            if not self.low < self.highest <= self.rate / 2:
                raise ValueError(
                    "`data.low` < `data.high` <= `data.rate` / 2 is required; "
                    f"they are {self.low:g}, {self.highest:g} and {self.rate / 2:g} Hz"
                )
            if self.step > self.fft // 2:
                raise ValueError(
                    f"`data.hop` {self.step} is more than half of `data.window` {self.fft}; use {self.fft // 2} or less"
                )
        values = spectrogram_values(round(self.seconds * self.rate), 1, self.fft, self.step)
        if values > MOST_VALUES:
            raise ValueError(
                f"the spectrogram of a sound would have {values:,} values, and at most {MOST_VALUES:,} are supported; "
                "decrease `data.seconds`, or increase `data.hop`"
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

    @property
    def fft(self) -> int:
        """Length of a window in samples."""
        if self.codec == "complex":
            return 2 * (self.rows - 1)
        if self.window:
            return self.window
        window = 2 ** round(math.log2(_WINDOW * self.rate))
        while (self.rate / window >= self._narrowest or window < 2 * (self.hop or 0)) and window < 2**16:
            window *= 2
        return window

    @property
    def step(self) -> int:
        """Samples from one column of a spectrogram to the next."""
        if self.hop:
            return self.hop
        return min(128, self.rows) if self.codec == "complex" else self.fft // 4

    @property
    def smaller(self) -> "SoundOptions":
        """The options of the coarse spectrogram that a model that enlarges is given: fewer bands, and longer hops."""
        fewer = {"bands": self.rows // self.upscale, "hop": self.step * self.upscale, "window": None}
        return self.model_copy(update={**fewer, "upscale": 0, "vocoder": SPECTRAL})

    @property
    def _narrowest(self) -> float:
        """Width in Hz of the lowest band, the narrowest: a window needs a frequency in it."""
        low, high = mel(self.low), mel(self.highest)
        return frequency_of(low + 2 * (high - low) / (self.rows + 1)) - self.low


class DrumsOptions(SoundOptions):
    """Options of the data set `drums`."""

    rate: int = Field(16_000, ge=16_000, le=192_000, description="Sampling rate in Hz.")
    polarity: bool = Field(
        False, description="Invert the sign of waveforms at random during training, which is inaudible."
    )
    sounds: int = Field(500, ge=2, description="Number of sounds of each of the six instruments.")
    captions: bool = Field(
        False, description="Describe the sounds in sentences, which say the instrument, in place of classes."
    )
    seed: int = Field(0, ge=0, description="Seed of the random parameters of the sounds.")
    held_out: float = Field(
        0.1, gt=0, le=0.5, description="Fraction of the sounds that is held out of training, for evaluation."
    )

    @model_validator(mode="after")
    def _long_enough(self) -> "DrumsOptions":
        if self.captions and self.seconds < LEAST_DESCRIBED:
            raise ValueError(
                f"`data.captions` needs sounds of at least {LEAST_DESCRIBED:g} s, of which the decay can be heard; "
                f"`data.seconds` is {self.seconds:g}"
            )
        return self


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
    pieces: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="Largest number of consecutive pieces of `seconds` that each file gives; silent ones are left out.",
    )
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
