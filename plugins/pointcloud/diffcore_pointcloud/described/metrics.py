"""How well clouds are what their sentences ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from diffcore.evaluation.attributes import compared, prompt_attributes
from diffcore.plugins.output import Metric
from diffcore.plugins.wordings import read
from diffcore_pointcloud.described.judge import judge
from diffcore_pointcloud.described.sentences import WORDINGS


@dataclass(frozen=True)
class Seen:
    """Clouds with the sentences that ask for them.

    * `positions`: `[N, P, 3]`.
    * `kinds`: the numbers of the kinds that a classifier assigns them to, in the order of `WORDINGS`, `[N]`.
    * `sentences`: what each of them was asked to be; empty where nothing was asked.
    """

    positions: Tensor
    kinds: Tensor
    sentences: Sequence[str]


def prompt_metrics(samples: Seen, real: Seen, real_name: str) -> list[Metric]:
    """The part of the samples, in percent, in which each attribute is right, beside the control and real clouds."""
    found, asked = judge(samples.positions, samples.kinds), read(samples.sentences, WORDINGS)
    of_real = compared(read(real.sentences, WORDINGS), judge(real.positions, real.kinds))
    return prompt_attributes(asked, found, of_real, real_name)
