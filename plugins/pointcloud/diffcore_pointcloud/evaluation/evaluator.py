"""The evaluator of point clouds: distances between sets of samples and of real shapes, and the classes of samples.

The sets that are compared have equally many clouds, in total and of each class, and clouds of equally many points.
Every metric is also computed for real training shapes in place of the samples: about the best value for a model.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from diffcore.denoising.conditions import Conditions
from diffcore.evaluation.classifier import trained_classifier
from diffcore.evaluation.judge import accuracy_above_chance, tells_noise
from diffcore.evaluation.metrics import agreement_metrics, evenly, frechet_distance
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.output import Metric
from diffcore.plugins.text import prompts_of, text_values
from diffcore.plugins.wordings import UNSAID
from diffcore.states.noise import Draws, generator_for, seed_of
from diffcore.states.state import State, concatenate, fields
from diffcore_pointcloud.described.metrics import Seen, prompt_metrics
from diffcore_pointcloud.described.sentences import WORDINGS
from diffcore_pointcloud.evaluation import metrics as set_metrics
from diffcore_pointcloud.evaluation.sides import MOST_SHAPES, Sides
from diffcore_pointcloud.options import CloudFacts

_MAX_REAL = 2000
"""The largest number of held-out shapes, and of training shapes, that are compared; drawn with a fixed seed."""
_MAX_COORDINATE = 100.0
"""Coordinates of samples are clamped to this, in standard deviations, so that squares stay finite."""
_VERSION = "cloud-classifier-1"
"""Must change when the classifier changes, so that cached weights of older versions are not used."""
_POINTS = 256
"""The number of points of a cloud that the classifier receives."""
_VIEWS = 16_000
"""About the number of clouds on which the classifier is trained, at most 4 of each shape, augmented as in training."""
_STEPS = 400
_JITTER = 0.02
"""The standard deviation of noise on the coordinates, which augments the classifier's training data."""
_SPACE = "features of a classifier trained on the data"
_SPLITS = 5


@dataclass(frozen=True)
class Comparison:
    """A distance of clouds, and the largest number of shapes and of points that are compared by it."""

    name: str
    description: str
    unit: str
    distance: set_metrics.Distance
    shapes: int
    points: int


COMPARISONS = (
    Comparison("cd", "Chamfer distance", "squared standard deviations of coordinates", set_metrics.chamfer, 400, 512),
    Comparison(
        "emd", "exact earth mover's distance", "standard deviations of coordinates", set_metrics.earth_mover, 50, 128
    ),
)
"""The distances that are used. Sets of n shapes need n (2 n - 1) distances for the samples, and n (3 n - 1) / 2 more
for the training shapes."""


class PointFeatures(nn.Module):
    """Features `[B, 64]` of clouds `[B, N, 3]`, invariant to the order of points: a small PointNet (Qi et al. 2017)."""

    size = 64

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU())
        self.all = nn.Sequential(nn.Dropout(0.1), nn.Linear(128, self.size), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.all(self.each(x).amax(1))


class CloudEvaluator:
    """Computes metrics of samples against real shapes.

    `data` have `positions` `[n, pool, 3]` and `label` `[n]`. Real clouds are encoded as in training; samples are
    compared with them in the codec's scale.
    """

    def __init__(self, codec: Codec, data: Data, cache: Path) -> None:
        self._facts: CloudFacts = codec.facts  # type: ignore[attr-defined]
        self._codec, self._classes = codec, self._facts.described or self._facts.classes
        examples = data.examples[_random_rows(len(data.examples), 2 * _MAX_REAL)]
        if data.held_out is not None and len(data.held_out) >= 2:
            held_out = data.held_out[_random_rows(len(data.held_out), _MAX_REAL)]
            examples = examples[:_MAX_REAL]
            self._real_name, self._trained_name = "held-out shapes", "training shapes"
        else:
            held_out, examples = examples[::2], examples[1::2]
            self._real_name = "shapes of one half of the training data"
            self._trained_name = "shapes of the other half"
        # The names of random streams decide what is drawn, so they stay as they are.
        self._real = _clouds(codec, held_out, "judged against")
        self._trained = _clouds(codec, examples, "judged beside")
        self._labels, self._trained_labels = held_out["label"], examples["label"]
        self._classifier = None
        if len(self._classes) > 1 and len(data.examples["label"].unique()) > 1:
            views = [
                _clouds(codec, data.examples, f"view {view}")
                for view in range(max(1, min(4, _VIEWS // len(data.examples))))
            ]
            self._classifier = trained_classifier(
                PointFeatures,
                PointFeatures.size,
                torch.cat(views),
                data.examples["label"].repeat(len(views)),
                len(self._classes),
                cache,
                _VERSION,
                _augmented,
                _STEPS,
            )
            self._features, _ = self._classifier.features_and_logits(self._real[:, :_POINTS])
            self._accuracy = accuracy_above_chance(self._classifier, self._real[:, :_POINTS], self._labels)
            self._tells_noise = tells_noise(self._classifier, self._real[:, :_POINTS])
        self._sides = None
        if self._facts.parts:
            classify = self._classes_of if self._classifier is not None and self._accuracy is not None else None
            states = _states(codec, examples[:MOST_SHAPES], "judged beside")
            parts = codec.decode(states)["parts"]  # type: ignore[index, call-overload]
            self._sides = Sides(self._facts, self._trained, parts, classify)
        self._real_seen = None
        if self._facts.described and self._classifier is not None and self._accuracy is not None:
            prompts = prompts_of(codec.conditions, text_values(codec.conditions, held_out), len(held_out))
            self._real_seen = self._seen(self._real, prompts)

    def __call__(self, samples: TensorDict, conditions: Conditions) -> list[Metric]:
        """Metrics of `positions` `[n, N, 3]` in the data's unit. Samples that are not finite only count in `finite`."""
        clouds, finite = self._standardised(samples)
        fraction = Metric(
            "finite", finite.double().mean().item(), "fraction of samples: all coordinates are finite numbers"
        )
        label = conditions.get("label")
        requested = torch.full((len(clouds),), len(self._classes)) if label is None else label.cpu()
        metrics = [
            *self._of_prompts(clouds, finite, conditions),
            *self._agreement(clouds, requested, finite),
            fraction,
        ]
        clouds = clouds[finite]
        rows = self._matched(requested[finite])
        if len(rows.kind) < 2:
            return metrics
        metrics += self._frechet(clouds, rows)
        seconds = []
        for comparison in COMPARISONS:
            started = time.perf_counter()
            metrics += self._compared(clouds, rows, comparison)
            seconds.append(time.perf_counter() - started)
        each = ", ".join(f"{c.description} {s:.1f}" for c, s in zip(COMPARISONS, seconds, strict=True))
        meaning = f"seconds for computing the distances of clouds: {each}"
        return [*metrics, Metric("comparison_seconds", sum(seconds), meaning)]

    def of_side(self, name: str, samples: TensorDict, real: TensorDict) -> list[Metric]:
        """Metrics of samples whose side `name`, shape or parts, was drawn given the other side of `real` ones."""
        assert self._sides is not None
        positions, _ = self._standardised(real)
        labelled = TensorDict({"positions": positions, "parts": real["parts"].cpu()}, batch_size=[len(positions)])
        if name == "parts":
            return self._sides.of_parts(samples["parts"].cpu(), labelled)
        return self._sides.of_shape(self._standardised(samples)[0], labelled)

    def _standardised(self, samples: TensorDict) -> tuple[Tensor, Tensor]:
        """Positions `[n, N, 3]` in the scale of the codec, bounded, and which samples are finite, `[n]`."""
        positions = samples["positions"].cpu().double()
        positions = (positions - torch.tensor(self._facts.centre, dtype=torch.float64)) / self._facts.scale
        finite = positions.isfinite().flatten(1).all(1)
        return positions.nan_to_num().clamp(-_MAX_COORDINATE, _MAX_COORDINATE).float(), finite

    def _classes_of(self, clouds: Tensor) -> Tensor:
        """The classes `[n]` that the classifier assigns clouds `[n, N, 3]` to."""
        assert self._classifier is not None
        _, logits = self._classifier.features_and_logits(clouds[:, :_POINTS])
        return logits.argmax(1)

    def _of_prompts(self, clouds: Tensor, finite: Tensor, conditions: Conditions) -> list[Metric]:
        """How often clouds are what sentences about generated shapes ask for. Those that are not finite never are."""
        if self._real_seen is None:
            return []
        seen = self._seen(clouds, prompts_of(self._codec.conditions, conditions, len(clouds)))
        positions = seen.positions.masked_fill(~finite[:, None, None], torch.nan)
        kinds = seen.kinds.masked_fill(~finite, UNSAID)
        return prompt_metrics(Seen(positions, kinds, seen.sentences), self._real_seen, self._real_name)

    def _seen(self, clouds: Tensor, prompts: Sequence[str]) -> Seen:
        """Clouds with the kinds that the classifier assigns them to, and with their prompts."""
        kinds = torch.tensor([[*WORDINGS["kind"]].index(name) for name in self._classes])
        return Seen(clouds, kinds[self._classes_of(clouds)], prompts)

    def _matched(self, requested: Tensor) -> "_Rows":
        """Rows with equally many clouds of each requested class; any rows if a sample has no requested class."""
        kinds = [requested, self._labels, self._trained_labels]
        if not bool((requested < len(self._classes)).all()):
            kinds = [torch.zeros_like(kind) for kind in kinds]
        chosen: list[list[Tensor]] = [[], [], []]
        for kind in requested.unique() if kinds[0] is requested else [0]:
            rows = [(of == kind).nonzero()[:, 0] for of in kinds]
            least = min(map(len, rows))
            for chosen_rows, own in zip(chosen, rows, strict=True):
                chosen_rows.append(own[:least])
        empty = torch.zeros(0, dtype=torch.int64)
        samples, real, trained = (torch.cat([empty, *parts]) for parts in chosen)
        return _Rows(samples, real, trained, kinds[1][real])

    def _agreement(self, clouds: Tensor, requested: Tensor, finite: Tensor) -> list[Metric]:
        """The agreement of classifier and requested classes. Samples that are not finite never agree."""
        has_class = requested < len(self._classes)
        if self._classifier is None or self._accuracy is None or not bool(has_class.any()):
            return []
        _, logits = self._classifier.features_and_logits(clouds[has_class][:, :_POINTS])
        # An additional class, which is never requested, gets the samples that are not finite.
        not_finite = torch.where(finite[has_class], -torch.inf, torch.inf)
        return agreement_metrics(torch.cat([logits, not_finite[:, None]], 1), requested[has_class], self._accuracy)

    def _frechet(self, clouds: Tensor, rows: "_Rows") -> list[Metric]:
        """Frechet distances of one half of the samples, and of the real shapes, from the other half of the real ones.

        All halves have the same size, so the bias of the distance of finite sets is the same too.
        """
        if self._classifier is None or not self._tells_noise or len(rows.kind) < 4:
            return []
        sampled, _ = self._classifier.features_and_logits(clouds[rows.samples][:, :_POINTS])
        real = self._features[rows.real]
        generator = generator_for("halves")
        of_samples, of_real = 0.0, 0.0
        for _ in range(_SPLITS):
            order = torch.argsort(rows.kind + torch.rand(len(real), generator=generator, dtype=torch.float64))
            half, other = order[0::2], order[1::2]
            of_samples += frechet_distance(sampled[half], real[other]) / _SPLITS
            of_real += frechet_distance(real[half], real[other]) / _SPLITS
        reference = f"half of {len(real)} {self._real_name}, mean of {_SPLITS} splits"
        return [
            Metric("frechet_distance", of_samples, f"half of {len(real)} samples against {reference}, in {_SPACE}"),
            Metric("frechet_distance_real", of_real, "the other half of those real shapes against that half"),
            Metric("frechet_ratio", of_samples / max(of_real, 1e-12), "frechet_distance / frechet_distance_real"),
        ]

    def _compared(self, clouds: Tensor, rows: "_Rows", comparison: Comparison) -> list[Metric]:
        n = len(rows.kind)
        used = evenly(torch.arange(n), min(n, comparison.shapes))  # evenly spaced, so classes keep their proportions
        points = min(comparison.points, clouds.shape[1], self._real.shape[1])
        sampled, real, trained = (
            of[chosen[used], :points]
            for of, chosen in zip(
                (clouds, self._real, self._trained), (rows.samples, rows.real, rows.trained), strict=True
            )
        )
        among_real = set_metrics.pairwise(real, distance=comparison.distance)
        of_samples, of_trained = (
            _compare_sets(chosen, real, among_real, comparison.distance) for chosen in (sampled, trained)
        )
        compared = (
            f"{len(real)} samples against {len(real)} {self._real_name}, {comparison.description} of {points} points"
        )
        compared_real = f"the same for {len(real)} {self._trained_name} in place of the samples"
        meanings = {
            "one_nna": "accuracy of telling samples from real shapes by their nearest neighbour; 0.5 is best",
            "mmd": f"mean distance of real shapes to the nearest sample, {comparison.unit}",
            "coverage": "fraction of the real shapes that are nearest to at least one sample",
        }
        metrics = []
        for name, meaning in meanings.items():
            metrics.append(Metric(f"{name}_{comparison.name}", of_samples[name], f"{meaning}; {compared}"))
            metrics.append(Metric(f"{name}_{comparison.name}_real", of_trained[name], compared_real))
        return metrics


@dataclass(frozen=True)
class _Rows:
    """Rows of samples, real and training shapes `[n]`, equally many of each class, sorted by their class `kind`."""

    samples: Tensor
    real: Tensor
    trained: Tensor
    kind: Tensor


def _compare_sets(
    samples: Tensor, real: Tensor, among_real: Tensor, distance: set_metrics.Distance
) -> dict[str, float]:
    across = set_metrics.pairwise(samples, real, distance)
    return {
        "one_nna": set_metrics.one_nna(set_metrics.pairwise(samples, distance=distance), across, among_real),
        "mmd": set_metrics.mmd(across),
        "coverage": set_metrics.coverage(across),
    }


def _random_rows(n: int, most: int) -> Tensor:
    """At most `most` of n rows, in a random order with a fixed seed."""
    return torch.randperm(n, generator=generator_for("real shapes"))[:most]


def _states(codec: Codec, examples: TensorDict, purpose: str) -> State:
    """Encoded clouds `[n, ...]`, randomly drawn and augmented as in training, with a fixed seed."""
    states = []
    for start in range(0, len(examples), 500):
        part = examples[start : start + 500]
        states.append(codec.encode(part, Draws.of(seed_of("clouds", purpose), range(start, start + len(part)))).state)
    return concatenate(states)


def _clouds(codec: Codec, examples: TensorDict, purpose: str) -> Tensor:
    """The positions `[n, P, 3]` of `_states`."""
    return next(iter(fields(_states(codec, examples, purpose)).values())).float()


def _augmented(clouds: Tensor, generator: torch.Generator) -> Tensor:
    """Random points of each cloud, with noise."""
    chosen = torch.randperm(clouds.shape[1], generator=generator)[:_POINTS]
    points = clouds[:, chosen]
    return points + _JITTER * torch.randn(points.shape, generator=generator)


def build_evaluator(codec: Codec, data: Data, cache: Path) -> CloudEvaluator:
    """The evaluator for a data set; `codec.facts` must be its `CloudFacts`."""
    return CloudEvaluator(codec, data, cache)
