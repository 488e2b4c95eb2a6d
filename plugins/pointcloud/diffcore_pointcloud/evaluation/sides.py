"""Metrics of joint states: shapes that were drawn given the parts of their points, and parts given shapes."""

from collections.abc import Callable
from functools import cached_property

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.evaluation.metrics import others
from diffcore.plugins.output import Metric
from diffcore_pointcloud.evaluation.metrics import chamfer
from diffcore_pointcloud.options import CloudFacts

MOST_SHAPES, _POINTS = 500, 256
"""The largest number of training shapes that are compared with a cloud, and of points by which they are."""


class Sides:
    """Compares the two sides of joint states, `parts` `[B, P]` and `positions` `[B, P, 3]` in the scale of the codec.

    * `trained`, `trained_parts`: encoded positions and labels of training shapes, whose order is random.
    * `classify`: a function of encoded positions to the classes that a classifier assigns them to; None without one.
    """

    def __init__(
        self,
        facts: CloudFacts,
        trained: Tensor,
        trained_parts: Tensor,
        classify: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._facts = facts
        self._trained, self._trained_parts = trained[:MOST_SHAPES], trained_parts[:MOST_SHAPES]
        self._classify = classify

    def of_parts(self, drawn: Tensor, real: TensorDict) -> list[Metric]:
        """How well labels `drawn` `[B, P]` given the `positions` of `real` shapes are those of the `real` `parts`."""
        true, nearest = real["parts"], self.transferred(real["positions"])
        fractions = self._facts.part_fractions
        commonest = self._facts.part_labels[fractions.index(max(fractions))]
        of_nearest = f"labels of the nearest points of the most similar of {len(self._trained)} training shapes"
        return [
            Metric("parts_accuracy", _share(drawn == true), "fraction of points with the right label of their part"),
            Metric("parts_accuracy_nearest", _share(nearest == true), f"the same for {of_nearest}"),
            Metric(
                "parts_accuracy_commonest",
                _share(true == commonest),
                "the same for the most frequent label at every point",
            ),
            Metric(
                "parts_iou",
                mean_iou(drawn, true),
                "intersection over union of the points of a part, drawn and real: mean over parts, then over shapes",
            ),
            Metric("parts_iou_nearest", mean_iou(nearest, true), f"the same for {of_nearest}"),
        ]

    def of_shape(self, drawn: Tensor, real: TensorDict) -> list[Metric]:
        """How well clouds `drawn` `[B, P, 3]` given the `parts` of `real` shapes agree with these and with their parts.

        They are compared with the shape of the same row, and with that of another row, drawn at random.
        """
        positions, parts = real["positions"], real["parts"]
        other = others(len(drawn))
        least = min(drawn.shape[1], _POINTS)
        distances, distances_of_other = (
            torch.stack([chamfer(a, b[None])[0] for a, b in zip(drawn[:, :least], to[:, :least], strict=True)])
            for to in (positions, positions[other])
        )
        unit = "squared standard deviations of coordinates"
        metrics = [
            Metric(
                "shape_labels",
                _share(self.transferred(drawn) == parts),
                "fraction of points of drawn shapes where similar training shapes have the label that they were given",
            ),
            Metric("shape_labels_real", _share(self.transferred(positions) == parts), "the same for the real shapes"),
            Metric(
                "shape_chamfer",
                distances.mean().item(),
                f"Chamfer distance between a drawn shape and the real one with the same parts, {unit}",
            ),
            Metric(
                "shape_chamfer_shuffled",
                distances_of_other.mean().item(),
                "the same with a real shape of other parts, drawn at random",
            ),
        ]
        if self._classify is not None:
            classes, true = self._classify(drawn), self._classify(positions)
            metrics += [
                Metric(
                    "shape_class", _share(classes == true), "fraction of drawn shapes of the class of the real ones"
                ),
                Metric("shape_class_shuffled", _share(classes == true[other]), "the same with other real shapes"),
            ]
        return metrics

    def transferred(self, clouds: Tensor) -> Tensor:
        """The labels `[B, P]` of the nearest points of the training shape of the least Chamfer distance to each."""
        labels = []
        for cloud in clouds:
            shape = int(chamfer(cloud[:_POINTS], self._few).argmin())
            point = torch.cdist(cloud, self._trained[shape]).argmin(1)
            labels.append(self._trained_parts[shape][point])
        return torch.stack(labels)

    @cached_property
    def _few(self) -> Tensor:
        return self._trained[:, :_POINTS].contiguous()


def mean_iou(found: Tensor, true: Tensor) -> float:
    """The mean over shapes of the mean over parts of intersection / union of the points with the label of the part.

    `found` and `true` are labels `[B, P]`. The parts of a shape are those that at least one of the two has, so the
    value is that of the ShapeNet part benchmark (Yi et al. 2016) without the parts that both lack, which it counts 1.
    """
    means = []
    for drawn, real in zip(found, true, strict=True):
        labels = torch.cat([drawn, real]).unique()[:, None]
        a, b = drawn == labels, real == labels
        means.append(((a & b).sum(1) / (a | b).sum(1)).mean())
    return torch.stack(means).double().mean().item()


def _share(values: Tensor) -> float:
    return values.double().mean().item()
