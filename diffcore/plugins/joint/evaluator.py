"""The metrics of joint states: those of each side by its own evaluator, also for sides drawn given the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffcore.denoising.conditions import Conditions
from diffcore.plugins.building import part_of
from diffcore.plugins.data import Data, spread_rows
from diffcore.plugins.joint.codec import JointCodec
from diffcore.plugins.joint.samples import columns_of, of_side
from diffcore.plugins.output import Metric


def joint_evaluator(codec: JointCodec, data: Data, cache: Path) -> "JointEvaluator | None":
    """The evaluators of all sides that have one; None if no side has."""
    evaluators = {}
    for name, modality in codec.modalities.items():
        if modality.evaluator is not None:
            held_out = None if data.held_out is None else columns_of(data.held_out, name)
            own = Data(getattr(data.facts, name), columns_of(data.examples, name), held_out)
            if (made := part_of(modality, "evaluator", codec.sides[name], own, cache)) is not None:
                evaluators[name] = made
    return JointEvaluator(codec, data, evaluators) if evaluators else None


class JointEvaluator:
    """Measures each side of samples with the evaluator of its kind of data; the names begin with that of the side."""

    def __init__(self, codec: JointCodec, data: Data, evaluators: dict[str, Any]) -> None:
        self._codec, self._evaluators = codec, evaluators
        self._examples = data.examples if data.held_out is None else data.held_out

    def __call__(self, samples: Any, conditions: Conditions) -> list[Metric]:
        """The metrics of each side, and how often both sides have the same class as their judges see it."""
        return [
            replace(metric, name=f"{side}_{metric.name}")
            for side, evaluate in self._evaluators.items()
            for metric in evaluate(of_side(samples, side), self._conditions_of(side, conditions))
        ]

    def of_side(self, name: str, samples: Any, real: Any) -> list[Metric]:
        """The metrics of a side that was drawn given the others, as if the classes of the real examples were asked for.

        `SIDE_given_agreement` is then how often the side has the class of the example whose other sides it was drawn
        for, and `SIDE_given_agreement_chance` how often it would have it if it were always the most frequent class.
        """
        if name not in self._evaluators:
            return []
        rows = self._examples[spread_rows(self._examples, len(real))]
        conditions = self._codec.sides[name].encode(columns_of(rows, name)).conditions
        found = self._evaluators[name](of_side(samples, name), conditions)
        metrics = [
            replace(metric, name=f"{name}_given_{metric.name}")
            for metric in found
            if not metric.name.endswith(("_real", "_codec"))
        ]
        label = conditions.get("label")
        if label is not None and any(metric.name == "class_agreement" for metric in found):
            share = torch.bincount(label.cpu()).max().item() / len(label)
            metrics.append(Metric(f"{name}_given_class_agreement_chance", share, "share of the most frequent class"))
        return metrics

    def _conditions_of(self, side: str, conditions: Conditions) -> Conditions:
        """The conditions of a side by its own names."""
        names = self._codec.names[side]
        return {own: conditions[full] for own, full in names.items() if full in conditions}
