"""How well pictures show what their sentences ask for."""

from collections.abc import Sequence

from torch import Tensor

from diffcore.evaluation.attributes import attribute_metrics, attribute_summary, other_rows
from diffcore.plugins.output import Metric
from diffcore_image.scenes.judge import judge
from diffcore_image.scenes.scene import Scenes
from diffcore_image.scenes.score import compare
from diffcore_image.scenes.sentences import read
from diffcore_image.scenes.split import held_out

_NAMES = {1: "one object", 2: "two objects"}


def scene_metrics(samples: Tensor, sentences: Sequence[str]) -> list[Metric]:
    """The part of the samples, in percent, in which each attribute is right, and all of them.

    * `samples`: uint8 `[n, 3, 32, 32]`.
    * `sentences`: what each sample was asked to be; samples without a sentence of the data's own wordings do not count.

    There is a group of metrics for one and for two objects, and for combinations that training has and those that are
    held out. As a control, the same pictures are compared with the sentences of other pictures of their group.
    """
    asked, found = read(sentences), judge(samples)
    unseen = held_out().contains(asked)
    metrics = []
    for name, kind in (("seen", ~unseen), ("held_out", unseen)):
        for count, objects in _NAMES.items():
            rows = (kind & (asked.count == count)).nonzero()[:, 0]
            if len(rows):
                metrics += _of_group(f"{name}_{objects.replace(' ', '_')}", asked[rows], found[rows])
    return metrics


def scene_summary(samples: Tensor, sentences: Sequence[str]) -> list[str]:
    """A line that says how many samples show what their sentences ask for, and how often each attribute is right.

    Samples without a sentence of the data's own wordings do not count; no line if none has one.
    """
    asked = read(sentences)
    rows = (asked.count > 0).nonzero()[:, 0]
    return attribute_summary(compare(asked[rows], judge(samples[rows])), "pictures") if len(rows) else []


def _of_group(name: str, asked: Scenes, found: Scenes) -> list[Metric]:
    right, control = compare(asked, found), compare(asked[other_rows(len(asked))], found)
    return attribute_metrics(name, right, control)
