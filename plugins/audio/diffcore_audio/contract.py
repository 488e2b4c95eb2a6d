"""The properties of the audio plugin that `diffcore check-plugin` can test."""

from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.contract import Contract
from diffcore_audio.codec import SoundCodec
from diffcore_audio.options import ComplexFacts
from diffcore_audio.signals.waves import FULL_SCALE, floats, waves_of


def contract(codec: SoundCodec) -> Contract:
    """Decoding complex spectrograms restores waveforms to within half a step of 16 bits.

    Mel spectrograms lose the phases, so nothing is tested for them.
    """
    if not isinstance(codec.facts.codec, ComplexFacts):
        return Contract()
    return Contract(restored=_largest_difference, tolerance=0.5 / FULL_SCALE)


def _largest_difference(examples: TensorDict, samples: Tensor | TensorDict) -> Tensor:
    """The largest difference of each waveform `[B]`, relative to full scale."""
    return (waves_of(samples) - floats(examples["waveform"])).abs().flatten(1).amax(1)
