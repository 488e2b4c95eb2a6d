"""Figures of point clouds: whether sets of samples and of real shapes can be told apart, and what samples show.

Sets are compared in equal terms: as many samples as real shapes, of as many points, of each class equally many. Beside
every metric stands that of real training shapes in place of the samples, which a model can hardly beat honestly.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from diffcore.denoising.conditions import Conditions
from diffcore.evaluation.classifier import trained_classifier
from diffcore.evaluation.metrics import agreement_metrics, evenly, frechet_distance
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.output import Metric
from diffcore.states.noise import generator_for
from diffcore_pointcloud.evaluation import metrics as set_metrics
from diffcore_pointcloud.options import CloudFacts

_REAL = 2000
"""So many held-out shapes, and as many of training, at most are drawn with a fixed seed."""
_FARTHEST = 100.0
"""Coordinates of samples are cut here, in standard deviations, so that squares stay finite."""
_RECIPE = "cloud-classifier-1"
"""Changes when the classifier does, so that old weights are not used."""
_SEEN = 256
"""Points that the classifier sees of a cloud."""
_VIEWS = 16_000
"""The classifier learns from about so many clouds, at most 4 of a shape: other points, and turned as training does."""
_STEPS = 400
_JITTER = 0.02
_SPACE = "features of a classifier trained on the data"
_SPLITS = 5


@dataclass(frozen=True)
class Comparison:
    """A distance of clouds, and how many shapes of how many points are compared by it at most."""

    name: str
    words: str
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
"""n shapes to a side take n (2 n - 1) distances for the samples, and n (3 n - 1) / 2 more for the training shapes."""


class PointFeatures(nn.Module):
    """Features `[B, 64]` of clouds `[B, N, 3]`, whatever the order of points: a small PointNet (Qi et al. 2017)."""

    size = 64

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU())
        self.all = nn.Sequential(nn.Dropout(0.1), nn.Linear(128, self.size), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.all(self.each(x).amax(1))


class CloudEvaluator:
    """Figures against real shapes.

    `data` have `positions` `[n, pool, 3]` and `label` `[n]`. Real clouds are what the codec draws of them in training;
    samples are held against them in the codec's scale.
    """

    def __init__(self, codec: Codec, data: Data, cache: Path) -> None:
        self._facts: CloudFacts = codec.facts  # type: ignore[attr-defined]
        examples = data.examples[_some(len(data.examples), 2 * _REAL)]
        if data.held_out is not None and len(data.held_out) >= 2:
            held_out, examples = data.held_out[_some(len(data.held_out), _REAL)], examples[:_REAL]
            self._words, self._beside = "held-out shapes", "training shapes"
        else:
            held_out, examples = examples[::2], examples[1::2]
            self._words, self._beside = "half of the training shapes", "the other half of the training shapes"
        self._real = _clouds(codec, held_out, "judged against")
        self._trained = _clouds(codec, examples, "judged beside")
        self._labels, self._trained_labels = held_out["label"], examples["label"]
        self._classifier = None
        if self._facts.classes:
            views = [
                _clouds(codec, data.examples, f"view {view}")
                for view in range(max(1, min(4, _VIEWS // len(data.examples))))
            ]
            self._classifier = trained_classifier(
                PointFeatures,
                PointFeatures.size,
                torch.cat(views),
                data.examples["label"].repeat(len(views)),
                len(self._facts.classes),
                cache,
                _RECIPE,
                _seen_and_shaken,
                _STEPS,
            )
            self._features, logits = self._classifier.judged(self._real[:, :_SEEN])
            self._accuracy = (logits.argmax(1) == self._labels).double().mean().item()

    def __call__(self, samples: TensorDict, conditions: Conditions) -> list[Metric]:
        """Figures of `positions` `[n, N, 3]` in the data's unit. Samples that are not finite are told and left out."""
        positions = samples["positions"].cpu().double()
        positions = (positions - torch.tensor(self._facts.centre, dtype=torch.float64)) / self._facts.scale
        finite = positions.isfinite().flatten(1).all(1)
        clouds = positions.nan_to_num().clamp(-_FARTHEST, _FARTHEST).float()
        share = Metric("finite", finite.double().mean().item(), "share of samples: all coordinates are finite numbers")
        label = conditions.get("label")
        asked = torch.full((len(clouds),), len(self._facts.classes)) if label is None else label.cpu()
        metrics = [*self._agreement(clouds, asked, finite), share]
        kept = clouds[finite]
        rows = self._matched(asked[finite])
        if len(rows.kind) < 2:
            return metrics
        metrics += self._frechet(kept, rows)
        seconds = []
        for comparison in COMPARISONS:
            started = time.perf_counter()
            metrics += self._compared(kept, rows, comparison)
            seconds.append(time.perf_counter() - started)
        each = ", ".join(f"{c.words} {s:.1f}" for c, s in zip(COMPARISONS, seconds, strict=True))
        return [*metrics, Metric("comparison_seconds", sum(seconds), f"that distances of clouds took: {each}")]

    def _matched(self, asked: Tensor) -> "_Rows":
        """Rows that can be compared. Where a sample was asked for nothing, classes are taken as they come."""
        kinds = [asked, self._labels, self._trained_labels]
        if not bool((asked < len(self._facts.classes)).all()):
            kinds = [torch.zeros_like(kind) for kind in kinds]
        chosen: list[list[Tensor]] = [[], [], []]
        for kind in asked.unique() if kinds[0] is asked else [0]:
            rows = [(of == kind).nonzero()[:, 0] for of in kinds]
            least = min(map(len, rows))
            for these, those in zip(chosen, rows, strict=True):
                these.append(those[:least])
        nothing = torch.zeros(0, dtype=torch.int64)
        samples, real, trained = (torch.cat([nothing, *these]) for these in chosen)
        return _Rows(samples, real, trained, kinds[1][real])

    def _agreement(self, clouds: Tensor, asked: Tensor, finite: Tensor) -> list[Metric]:
        """Samples that are not finite show a class that nobody can ask for."""
        given = asked < len(self._facts.classes)
        if self._classifier is None or not bool(given.any()):
            return []
        _, logits = self._classifier.judged(clouds[given][:, :_SEEN])
        none = torch.where(finite[given], -torch.inf, torch.inf)
        return agreement_metrics(torch.cat([logits, none[:, None]], 1), asked[given], self._accuracy)

    def _frechet(self, clouds: Tensor, rows: "_Rows") -> list[Metric]:
        """Halves of the samples and of the real shapes against other halves of the real ones, none seen in training.

        As all halves are of one size, so is what the distance of finite sets has too much.
        """
        if self._classifier is None or len(rows.kind) < 4:
            return []
        sampled, _ = self._classifier.judged(clouds[rows.samples][:, :_SEEN])
        real = self._features[rows.real]
        generator = generator_for("halves")
        found, beside = 0.0, 0.0
        for _ in range(_SPLITS):
            order = torch.argsort(rows.kind + torch.rand(len(real), generator=generator, dtype=torch.float64))
            half, other = order[0::2], order[1::2]
            found += frechet_distance(sampled[half], real[other]) / _SPLITS
            beside += frechet_distance(real[half], real[other]) / _SPLITS
        half_words = f"half of {len(real)} {self._words}, mean of {_SPLITS} splits"
        return [
            Metric("frechet_distance", found, f"half of {len(real)} samples against {half_words}, in {_SPACE}"),
            Metric("frechet_distance_real", beside, "the other half of those real shapes against that half"),
            Metric("frechet_ratio", found / max(beside, 1e-12), "the first over the second"),
        ]

    def _compared(self, clouds: Tensor, rows: "_Rows", comparison: Comparison) -> list[Metric]:
        n = len(rows.kind)
        spread = evenly(torch.arange(n), min(n, comparison.shapes))  # each class has its share
        points = min(comparison.points, clouds.shape[1], self._real.shape[1])
        sampled, real, trained = (
            of[chosen[spread], :points]
            for of, chosen in zip(
                (clouds, self._real, self._trained), (rows.samples, rows.real, rows.trained), strict=True
            )
        )
        among_real = set_metrics.pairwise(real, distance=comparison.distance)
        found, beside = (_of_sets(those, real, among_real, comparison.distance) for those in (sampled, trained))
        told = (
            f"{len(real)} samples against {len(real)} {self._words}, {comparison.words} of {points} points",
            f"the same for {len(real)} of {self._beside} in place of the samples",
        )
        meanings = {
            "one_nna": "how often a nearest neighbour tells samples from real shapes; 0.5 is best",
            "mmd": f"mean distance of real shapes from the nearest sample, {comparison.unit}",
            "coverage": "share of real shapes that are the nearest to some sample",
        }
        metrics = []
        for name, meaning in meanings.items():
            metrics.append(Metric(f"{name}_{comparison.name}", found[name], f"{meaning}; {told[0]}"))
            metrics.append(Metric(f"{name}_{comparison.name}_real", beside[name], told[1]))
        return metrics


@dataclass(frozen=True)
class _Rows:
    """Rows of samples, real and training shapes `[n]`, equally many of each class, in order of their class `kind`."""

    samples: Tensor
    real: Tensor
    trained: Tensor
    kind: Tensor


def _of_sets(samples: Tensor, real: Tensor, among_real: Tensor, distance: set_metrics.Distance) -> dict[str, float]:
    across = set_metrics.pairwise(samples, real, distance)
    return {
        "one_nna": set_metrics.one_nna(set_metrics.pairwise(samples, distance=distance), across, among_real),
        "mmd": set_metrics.mmd(across),
        "coverage": set_metrics.coverage(across),
    }


def _some(n: int, most: int) -> Tensor:
    """`most` of n rows, or all, in a random order that is always the same."""
    return torch.randperm(n, generator=generator_for("real shapes"))[:most]


def _clouds(codec: Codec, examples: TensorDict, purpose: str) -> Tensor:
    """Encoded positions `[n, P, 3]` as they are drawn for training, the same each time."""
    generator = generator_for("clouds", purpose)
    found = []
    for part in examples.split(500):
        state = codec.encode(part, generator).state
        found.append((state if isinstance(state, Tensor) else state["positions"]).float())
    return torch.cat(found)


def _seen_and_shaken(clouds: Tensor, generator: torch.Generator) -> Tensor:
    """Some points of each cloud, each moved a little."""
    chosen = torch.randperm(clouds.shape[1], generator=generator)[:_SEEN]
    seen = clouds[:, chosen]
    return seen + _JITTER * torch.randn(seen.shape, generator=generator)


def build_evaluator(codec: Codec, data: Data, cache: Path) -> CloudEvaluator:
    """The evaluator of a data set; `codec.facts` are its `CloudFacts`."""
    return CloudEvaluator(codec, data, cache)
