"""How different sounds are."""

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore_audio.codec import SoundCodec
from diffcore_audio.evaluation.neighbours import distances
from diffcore_audio.signals.spectra import log_mel
from diffcore_audio.signals.waves import SILENCE, finite, waves_of

FRAMES = 32
"""The number of frames of the spectrograms that are compared."""


class MelDistance:
    """The root mean square of the differences of log-mel spectrograms, in dB; see `neighbours.distances`."""

    words = "RMS of log-mel spectrograms in dB"
    most = 2000

    def __init__(self, codec: SoundCodec) -> None:
        self._rate = codec.facts.rate

    def __call__(self, samples: Tensor | TensorDict, others: Tensor | TensorDict) -> Tensor:
        """The distances `[n, m]`; infinite for sounds with values that are not finite."""
        (first, broken), (second, _) = (finite(waves_of(each).cpu().float()) for each in (samples, others))
        rows, columns = (log_mel(each, self._rate, FRAMES, SILENCE) for each in (first, second))
        return distances(rows, columns).masked_fill(broken[:, None], torch.inf)
