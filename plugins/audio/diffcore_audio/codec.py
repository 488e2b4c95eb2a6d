"""The codec of sounds: converts waveforms to spectrograms of unit variance, and back."""

from typing import TYPE_CHECKING

from torch import Tensor

from diffcore.denoising.conditions import ClassCondition, Condition
from diffcore.plugins.data import Drawn, Encoded
from diffcore.plugins.text import text_conditions, text_values
from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean, Mask
from diffcore.states.state import State
from diffcore_audio.enlarging import small_sound
from diffcore_audio.options import SoundFacts
from diffcore_audio.signals.representations import representation
from diffcore_audio.signals.waves import FULL_SCALE

if TYPE_CHECKING:
    from tensordict import TensorDict


class SoundCodec:
    """States are spectrograms; samples are waveforms, float32 `[B, C, L]`, with full scale at -1 and 1.

    With `facts.polarity`, training inverts the sign of each waveform with probability 1/2. A sound and its negative
    sound the same, and a recording has one or the other by accident of the wiring, so this doubles a small data set.
    It also makes the mean of complex spectrograms zero everywhere; the mean of the synthesised drums, which have
    similar onsets, is otherwise up to 2.7 standard deviations from zero. The synthesised drums all have the same
    polarity and are unlimited in number, so they are not inverted by default: the model would have more to learn
    (results are in `diffcore_audio.presets`).
    """

    def __init__(self, facts: SoundFacts) -> None:
        self.facts = facts
        self.representation = representation(facts)
        self.space = Euclidean(self.representation.shape)
        self.conditions: tuple[Condition, ...] = text_conditions(facts.text)
        if facts.classes:
            self.conditions = (ClassCondition("label", facts.classes), *self.conditions)
        self._small = small_sound(facts) if facts.upscale else None
        if self._small is not None:
            self.conditions = (*self.conditions, self._small)
        self.sizes = None

    def encode(self, examples: "TensorDict", draws: Draws | None = None) -> Encoded:
        """Encode `waveform`, int16 `[B, C, L]`, `label`, int64 `[B]`, and their texts if there are any.

        With `draws` and `facts.polarity`, the sign of each waveform is random.
        """
        waveform = examples["waveform"].float() / FULL_SCALE
        if draws is not None and self.facts.polarity:
            sign = 1 - 2 * (draws.uniform("polarity") < 0.5).float()
            waveform = waveform * sign[:, None, None]
        labels = {"label": examples["label"]} if self.facts.classes else {}
        conditions = {**labels, **text_values(self.conditions, examples, draws)}
        if self._small is not None:
            conditions[self._small.name] = self._small.drawn(self._small.representation.state(waveform), draws)
        return Encoded(self.representation.state(waveform), conditions)

    def require_smaller(self, codec: "SoundCodec") -> None:
        """Raise `UserError` unless the sounds of `codec` have the length, the rate and the channels of this model."""
        assert self._small is not None
        self._small.require_like(codec.facts)

    def coarse(self, samples: Drawn) -> Tensor:
        """The coarse spectrograms of sounds as states `[B, C, bands, columns]`.

        They are the sounds' own states where these are such spectrograms, so that no phases need to be estimated.
        """
        assert self._small is not None
        if isinstance(samples.codec, SoundCodec) and isinstance(samples.state, Tensor):
            state = self._small.converted(samples.state, samples.codec.facts)
            if state is not None:
                return state
        return self._small.representation.state(samples.decoded)

    def decode(self, state: State, mask: Mask = None) -> Tensor:
        """Return float32 waveforms `[B, C, L]`, which may exceed full scale."""
        assert isinstance(state, Tensor)
        return self.representation.waveform(state.float())
