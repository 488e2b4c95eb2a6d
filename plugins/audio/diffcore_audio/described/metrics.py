"""How well sounds are what their sentences ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from diffcore.evaluation.attributes import compared, prompt_attributes
from diffcore.plugins.output import Metric
from diffcore.plugins.wordings import read
from diffcore_audio.described.judge import judge
from diffcore_audio.described.sentences import WORDINGS


@dataclass(frozen=True)
class Heard:
    """Sounds with the sentences that ask for them.

    * `waves`: waveforms `[N, C, L]`.
    * `instruments`: the numbers of the instruments that a classifier assigns them to, `[N]`.
    * `sentences`: what each of them was asked to be; empty where nothing was asked.
    """

    waves: Tensor
    instruments: Tensor
    sentences: Sequence[str]


def prompt_metrics(samples: Heard, real: Heard, real_name: str, rate: int) -> list[Metric]:
    """The part of the samples, in percent, in which each attribute is right, beside the control and real sounds."""
    found, asked = judge(samples.waves, samples.instruments, rate), read(samples.sentences, WORDINGS)
    of_real = compared(read(real.sentences, WORDINGS), judge(real.waves, real.instruments, rate))
    return prompt_attributes(asked, found, of_real, real_name)
