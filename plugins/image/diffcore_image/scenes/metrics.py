"""How well pictures show what their sentences ask for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffcore.plugins.output import Metric
from diffcore_image.scenes.judge import judge
from diffcore_image.scenes.scene import Scenes
from diffcore_image.scenes.score import ATTRIBUTES, compare
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
    if not len(rows):
        return []
    right = compare(asked[rows], judge(samples[rows]))
    parts = [
        f"{name} {int(value.nansum())} of {int((~value.isnan()).sum())}"
        for name, value in right.items()
        if name != "all" and not value.isnan().all()
    ]
    return [f"{int(right['all'].sum())} of {len(rows)} pictures show what was asked for ({', '.join(parts)})"]


def _of_group(name: str, asked: Scenes, found: Scenes) -> list[Metric]:
    right, swapped = compare(asked, found), compare(asked[torch.arange(len(asked)).roll(1)], found)
    return [
        Metric(
            f"{name}_{attribute}",
            100 * right[attribute].nanmean().item(),
            f"% of {int((~right[attribute].isnan()).sum())} samples; "
            f"{100 * swapped[attribute].nanmean().item():.3g} with the prompts of other samples",
        )
        for attribute in (*ATTRIBUTES, "all")
        if not right[attribute].isnan().all()
    ]
