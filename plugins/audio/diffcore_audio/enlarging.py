"""Sounds that are given as a spectrogram of lower resolution: the condition of a model that enlarges them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from diffcore.denoising.conditions.coarse_condition import CoarseGrid
from diffcore.errors import UserError
from diffcore.plugins.enlarging import COARSE
from diffcore_audio.options import MelFacts, SoundFacts
from diffcore_audio.signals.representations import Representation, representation


@dataclass(frozen=True)
class SmallSound(CoarseGrid):
    """A mel spectrogram of a sound with fewer bands and longer hops. As text, it is a file of a sound.

    * `facts`: those of such spectrograms.
    """

    facts: SoundFacts | None = None

    @cached_property
    def representation(self) -> Representation:
        """What makes such spectrograms of waveforms."""
        assert self.facts is not None
        return representation(self.facts)

    def read(self, path: str) -> Tensor:
        """The spectrogram of the sound in a file, which is cut or extended with silence, `[1, C, bands, columns]`."""
        from diffcore_audio.codec import SoundCodec  # it imports this module
        from diffcore_audio.editing.reader import SoundReader

        assert self.facts is not None
        state = SoundReader(SoundCodec(self.facts)).read(Path(path))
        assert isinstance(state, Tensor)
        return state

    def require_like(self, facts: SoundFacts) -> None:
        """Raise `UserError` unless sounds with these facts have the same rate, length and channels."""
        assert self.facts is not None
        if (found := _words(facts)) != (wanted := _words(self.facts)):
            seconds = self.facts.samples / self.facts.rate
            raise UserError(
                f"the model enlarges sounds of {wanted}, not {found}: train the model of small sounds with "
                f"`data.rate` {self.facts.rate} and `data.seconds` {seconds:.6g}"
            )

    def converted(self, state: Tensor, facts: SoundFacts) -> Tensor | None:
        """States of a codec with these facts as states of such spectrograms; None if they are others."""
        assert self.facts is not None
        own, other = self.facts.codec, facts.codec
        if not (isinstance(own, MelFacts) and isinstance(other, MelFacts)):
            return None
        if facts.samples != self.facts.samples or _filters(own) != _filters(other):
            return None
        return (state * other.std + other.mean - own.mean) / own.std


def _words(facts: SoundFacts) -> str:
    channels = f" with {facts.channels} channels" if facts.channels > 1 else ""
    return f"{facts.samples} samples at {facts.rate} Hz{channels}"


def _filters(facts: MelFacts) -> MelFacts:
    """The facts without what is fitted to data."""
    return facts.model_copy(update={"mean": 0.0, "std": 1.0, "vocoder": ""})


def small_sound(facts: SoundFacts) -> SmallSound:
    """The condition of the facts, which have a factor."""
    small = facts.smaller
    shape = representation(small).shape
    return SmallSound(COARSE, shape, facts.upscale_noise, facts.upscale, facts=small)
