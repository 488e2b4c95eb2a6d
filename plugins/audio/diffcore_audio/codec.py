"""Sounds to states of zero mean and unit variance, and back."""

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import ClassCondition
from diffcore.plugins.data import Encoded
from diffcore.states.spaces import Euclidean, Mask
from diffcore.states.state import State
from diffcore_audio.options import SoundFacts
from diffcore_audio.signals.representations import representation
from diffcore_audio.signals.waves import FULL_SCALE


class SoundCodec:
    """States are spectrograms; samples are waveforms, float32 `[B, C, L]`, full scale +-1.

    With `polarity`, training turns waveforms over at random. A sound and its negative are heard as the same, and which
    one a recording holds is an accident of the wiring, so a small folder holds twice as much. The mean of complex
    spectrograms then is zero everywhere; without it, that of the embedded drums, which begin much alike, is 2.7
    deviations in places. Those have one polarity all the same, and they can be had without end, so they are not
    turned by default: it would be one more thing to learn (`diffcore_audio.presets` has metrics).
    """

    def __init__(self, facts: SoundFacts) -> None:
        self.facts = facts
        self.representation = representation(facts)
        self.space = Euclidean(self.representation.shape)
        self.conditions = (ClassCondition("label", facts.classes),) if facts.classes else ()
        self.sizes = None

    def encode(self, examples: TensorDict, generator: torch.Generator | None = None) -> Encoded:
        """`waveform` int16 `[B, C, L]` and `label` int64 `[B]`."""
        waveform = examples["waveform"].float() / FULL_SCALE
        if generator is not None and self.facts.polarity:
            sign = 1 - 2 * (torch.rand(len(waveform), generator=generator) < 0.5).float()
            waveform = waveform * sign.to(waveform.device)[:, None, None]
        conditions = {"label": examples["label"]} if self.facts.classes else {}
        return Encoded(self.representation.state(waveform), conditions)

    def decode(self, state: State, mask: Mask = None) -> Tensor:
        """float32 `[B, C, L]`; samples may be louder than full scale."""
        assert isinstance(state, Tensor)
        return self.representation.waveform(state.float())
