"""How well pictures of emoji show what their texts say, and whether they are copies of training pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.output import Metric
from diffcore_image.emoji.judge import TextJudge, trained_judge
from diffcore_image.emoji.retrieval import AMONG, found_among, nearest

_COPY = 1 / 3
"""The nearest training picture of a copy is nearer than this part of the second nearest (Yoon et al. 2023)."""
_TOPS = (1, 5)


@dataclass(frozen=True)
class Part:
    """Real pictures of held-out or of training examples, and their distinct texts.

    * `texts`: the numbers of the words of each distinct text, `[m, K]`.
    * `subjects`: the subject of each text, `[m]`, sorted.
    """

    name: str
    examples: TensorDict
    texts: Tensor
    subjects: Tensor

    def similarity(self, judge: TextJudge, pixels: Tensor, subject: Tensor) -> tuple[Tensor, Tensor]:
        """The similarity of pictures with all texts `[n, m]`, and the place of the text of their subject `[n]`."""
        return judge.similarity(pixels, self.texts), torch.searchsorted(self.subjects, subject)


def _part(name: str, examples: TensorDict) -> Part:
    """The part of the data that has these examples."""
    subjects, place = examples["subject"].unique(return_inverse=True)
    first = torch.full((len(subjects),), len(examples)).scatter_reduce(0, place, torch.arange(len(place)), "amin")
    return Part(name, examples, examples["words"][first], subjects)


class EmojiMetrics:
    """Retrieval of texts and distances to training pictures, by a judge that was trained on the `train` examples."""

    def __init__(self, train: TensorDict, held_out: TensorDict, cache: Path) -> None:
        self._train = train["pixels"]
        self._parts = (_part("held_out", held_out), _part("training", train))
        self._judge = trained_judge(train["pixels"], train["words"], train["subject"], cache)
        self._real = nearest(held_out["pixels"], self._train)

    def __call__(self, samples: Tensor, asked: TensorDict) -> list[Metric]:
        """The metrics of samples, uint8 `[n, 3, H, W]`, that were drawn for the texts of `asked` `[n]`."""
        metrics: list[Metric] = []
        held_out = asked["held_out"]
        for part, rows in zip(self._parts, (held_out, ~held_out), strict=True):
            if rows.any():
                metrics += self._retrieved(part, samples[rows], asked["subject"][rows])
                metrics += self._distances(part, samples[rows])
        return metrics

    def _retrieved(self, part: Part, samples: Tensor, subject: Tensor) -> list[Metric]:
        similarity, right = part.similarity(self._judge, samples, subject)
        others = similarity[torch.arange(len(samples)).roll(len(samples) // 2)]  # neighbours are alike
        real = part.similarity(self._judge, part.examples["pixels"], part.examples["subject"])
        among = min(AMONG, len(part.texts))
        metrics = []
        for k in _TOPS:
            name, chance = f"{part.name}_top_{k}", 100 * min(k / among, 1)
            meaning = (
                f"% of {len(samples)} samples whose text is one of the {k} nearest of {among}; "
                f"{_percent(found_among(others, right, k)):.3g} for the samples of other texts, chance {chance:.3g}"
            )
            metrics.append(Metric(name, _percent(found_among(similarity, right, k)), meaning))
            told = f"the same for the {len(part.examples)} real pictures"
            metrics.append(Metric(f"{name}_real", _percent(found_among(*real, k)), told))
        return metrics

    def _distances(self, part: Part, samples: Tensor) -> list[Metric]:
        of_samples = nearest(samples, self._train)
        return [
            Metric(
                f"{part.name}_nearest_training",
                of_samples[0].double().mean().item(),
                f"mean distance of {len(samples)} samples to the nearest training picture, RMS of values of 0 to 255; "
                f"{self._real[0].mean():.3g} for real held-out pictures",
            ),
            Metric(
                f"{part.name}_copies",
                _percent(_copies(of_samples)),
                f"% of {len(samples)} samples that are 3 times as near to a training picture as to any other; "
                f"{_percent(_copies(self._real)):.3g} for real held-out pictures",
            ),
        ]


def _copies(distances: Sequence[Tensor]) -> Tensor:
    first, second = distances
    return first < _COPY * second


def _percent(values: Tensor) -> float:
    return 100 * values.double().mean().item()
