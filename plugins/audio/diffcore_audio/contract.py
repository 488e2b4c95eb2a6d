"""What the plugin can be held to."""

from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.contract import Contract
from diffcore_audio.codec import SoundCodec
from diffcore_audio.options import ComplexFacts
from diffcore_audio.signals.waves import FULL_SCALE


def contract(codec: SoundCodec) -> Contract:
    """Waveforms come back from complex spectrograms to half a step of 16 bits; mel spectrograms lose their phases."""
    if not isinstance(codec.facts.codec, ComplexFacts):
        return Contract()
    return Contract(restored=_apart, tolerance=0.5 / FULL_SCALE)


def _apart(examples: TensorDict, samples: Tensor) -> Tensor:
    """The largest difference of a sample of the waveform, of full scale."""
    return (samples - examples["waveform"].float() / FULL_SCALE).abs().flatten(1).amax(1)
