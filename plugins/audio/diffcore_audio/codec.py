"""The codec of sounds: converts waveforms to spectrograms of unit variance, and back."""

import logging
import math
from typing import TYPE_CHECKING

from torch import Tensor

from diffcore.denoising.conditions import ClassCondition, Condition
from diffcore.errors import UserError
from diffcore.plugins.data import Drawn, Encoded
from diffcore.plugins.text import text_conditions, text_values
from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean, Mask, Product
from diffcore.states.state import State, named
from diffcore_audio.enlarging import small_sound
from diffcore_audio.options import SoundFacts
from diffcore_audio.signals.envelopes import envelope, restored, standardised
from diffcore_audio.signals.representations import representation, whole_columns
from diffcore_audio.signals.waves import FADE, faded, floats, waves_of

if TYPE_CHECKING:
    from tensordict import TensorDict

logger = logging.getLogger(__name__)

MOST_SECONDS = 600.0
"""The longest sounds that are sampled, in seconds."""

_MOST_COLUMNS = 64
"""Networks need a number of columns that is a multiple of a power of two, at most this one."""


class SoundCodec:
    """States are spectrograms; samples are waveforms, float32 `[B, C, L]`, with full scale at -1 and 1.

    With `facts.envelope`, states are joint: a spectrogram `sound`, and the standardised loudness of the waveform in K
    frames, `envelope` `[K]`. Samples are then a TensorDict of `waveform`, and of `envelope` in dBFS, float32 `[B, K]`.
    Each of both is what the state says: the envelope of a sample is not measured from its waveform.

    With `facts.polarity`, training inverts the sign of each waveform with probability 1/2. A sound and its negative
    sound the same, and a recording has one or the other by accident of the wiring, so this doubles a small data set.
    It also makes the mean of complex spectrograms zero everywhere; the mean of the synthesised drums, which have
    similar onsets, is otherwise up to 2.7 standard deviations from zero. The synthesised drums all have the same
    polarity and are unlimited in number, so they are not inverted by default: the model would have more to learn
    (results are in `diffcore_audio.presets`).
    """

    def __init__(self, facts: SoundFacts, kept: int | None = None) -> None:
        """The codec for `facts`; `kept` is the length in samples to which decoded sounds are cut, whole if None."""
        self.facts = facts
        self.kept = facts.samples if kept is None else kept
        self.representation = representation(facts)
        self.space: Euclidean | Product = Euclidean(self.representation.shape)
        self.joint: dict[str, tuple[str, ...]] = {}
        if facts.envelope is not None:
            self.space = Product({"sound": self.space, "envelope": Euclidean((facts.envelope.frames,))})
            self.joint = {"sound": ("sound",), "envelope": ("envelope",)}
        self.conditions: tuple[Condition, ...] = text_conditions(facts.text)
        if facts.classes:
            self.conditions = (ClassCondition("label", facts.classes), *self.conditions)
        self._small = small_sound(facts) if facts.upscale else None
        if self._small is not None:
            self.conditions = (*self.conditions, self._small)
        self.sizes = None

    def resized(self, size: str) -> "SoundCodec":
        """The codec of sounds of `size` seconds, for networks that take spectrograms of any length.

        The spectrogram is at least as long, so that a network that fits the trained length fits this one, and decoded
        sounds are cut with a fade of 5 ms. Raises `UserError` if `size` is not a number of seconds, for sounds that are
        shorter than a window or longer than `MOST_SECONDS`, and for models that enlarge.
        """
        facts = self.facts
        self.require_any_length(f"`size` {size}")
        shortest = (facts.codec.fft // 2 + 1) / facts.rate
        seconds = read_seconds(size, "`size`")
        if not shortest <= seconds <= MOST_SECONDS:
            raise UserError(f"`size` {size}: sounds of this run can last {shortest:.3g} to {MOST_SECONDS:g} s")
        trained = facts.samples / facts.rate
        if seconds > trained:
            logger.warning(
                f"the model was trained on sounds of {trained:.3g} s, so parts of a longer sound that are further "
                "apart than this may not fit together"
            )
        return self.of_length(round(seconds * facts.rate))

    def require_any_length(self, what: str) -> None:
        """Raise `UserError` if the model enlarges or is joint, so that its sounds have one length.

        `what` needs another one.
        """
        kind = "enlarges" if self._small is not None else "draws envelopes" if self.joint else ""
        if kind:
            trained = self.facts.samples / self.facts.rate
            raise UserError(f"{what}: a model that {kind} draws sounds of the length of its training, {trained:.3g} s")

    def as_samples(self, examples: "TensorDict") -> "Tensor | TensorDict":
        """Examples in the form of samples: waveforms as floats `[B, C, L]`, with full scale at 1."""
        waveform = floats(examples["waveform"])
        if self.facts.envelope is None:
            return waveform
        return _sample(waveform, envelope(waveform, self.facts.envelope))

    def state_of(self, waveform: Tensor) -> State:
        """The state of waveforms of floats `[B, C, L]`, with their own envelope where states are joint."""
        sound = self.representation.state(waveform)
        if self.facts.envelope is None:
            return sound
        levels = self.encoded_envelope(envelope(waveform, self.facts.envelope))
        return named({"sound": sound, "envelope": levels})

    def encoded_envelope(self, levels: Tensor) -> Tensor:
        """Loudness in dB `[B, K]` as joint states have it."""
        assert self.facts.envelope is not None
        return standardised(levels, self.facts.envelope)

    def of_length(self, samples: int) -> "SoundCodec":
        """The codec of sounds of this length in samples."""
        columns = self.facts.samples // self.facts.codec.hop + 1
        length = whole_columns(samples, self.facts.codec.hop, math.gcd(columns, _MOST_COLUMNS))
        return SoundCodec(self.facts.model_copy(update={"samples": length}), samples)

    def encode(self, examples: "TensorDict", draws: Draws | None = None) -> Encoded:
        """Encode `waveform`, int16 `[B, C, L]`, `label`, int64 `[B]`, and their texts if there are any.

        With `draws` and `facts.polarity`, the sign of each waveform is random.
        """
        waveform = floats(examples["waveform"])
        if draws is not None and self.facts.polarity:
            sign = 1 - 2 * (draws.uniform("polarity") < 0.5).float()
            waveform = waveform * sign[:, None, None]
        labels = {"label": examples["label"]} if self.facts.classes else {}
        conditions = {**labels, **text_values(self.conditions, examples, draws)}
        if self._small is not None:
            conditions[self._small.name] = self._small.drawn(self._small.representation.state(waveform), draws)
        return Encoded(self.state_of(waveform), conditions)

    def require_smaller(self, codec: "SoundCodec") -> None:
        """Raise `UserError` unless the sounds of `codec` have the length, the rate and the channels of this model."""
        assert self._small is not None
        self._small.require_like(codec.facts.model_copy(update={"samples": codec.kept}))

    def coarse(self, samples: Drawn) -> Tensor:
        """The coarse spectrograms of sounds as states `[B, C, bands, columns]`.

        They are the sounds' own states where these are such spectrograms, so that no phases need to be estimated.
        """
        assert self._small is not None
        if isinstance(samples.codec, SoundCodec):
            own = samples.state if isinstance(samples.state, Tensor) else samples.state["sound"]
            state = self._small.converted(own, samples.codec.facts)
            if state is not None:
                return state
        return self._small.representation.state(waves_of(samples.decoded))

    def decode(self, state: State, mask: Mask = None) -> "Tensor | TensorDict":
        """Return float32 waveforms `[B, C, L]`, which may exceed full scale; with their envelopes in joint states."""
        if not isinstance(state, Tensor):
            assert self.facts.envelope is not None
            levels = restored(state["envelope"].float(), self.facts.envelope)
            return _sample(self.waveforms(state["sound"]), levels)
        return self.waveforms(state)

    def waveforms(self, sound: Tensor) -> Tensor:
        """The waveforms `[B, C, L]` of spectrograms as states have them."""
        waveforms = self.representation.waveform(sound.float())
        if self.kept == self.facts.samples:
            return waveforms
        return faded(waveforms[..., : self.kept], FADE, self.facts.rate)


def _sample(waveform: Tensor, levels: Tensor) -> "TensorDict":
    """Samples of joint states: waveforms `[B, C, L]` and their loudness `[B, K]` in dB."""
    from tensordict import TensorDict

    return TensorDict({"waveform": waveform, "envelope": levels}, batch_size=[len(waveform)])


def read_seconds(text: str, what: str) -> float:
    """A number of seconds that a user writes, `2.5` or `2.5s`. Raises `UserError` for anything else."""
    try:
        seconds = float(text.strip().removesuffix("s"))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"{what} {text!r}: write a number of seconds, such as 2.5")
    return seconds
