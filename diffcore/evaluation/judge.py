"""What compares samples with real examples: a classifier where it is able to, otherwise principal components.

A classifier of a single class says nothing, as every input belongs to that class; its features are those of an
untrained network, in which noise may lie near the data. The same holds for classes that cannot be told apart. So a
classifier has to pass two tests on real examples before it is used: it must be clearly better than chance, and its
features must tell real examples from the same examples with all their values shuffled.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffcore.evaluation.classifier import Augment, Classifier, trained_classifier
from diffcore.evaluation.metrics import agreement_metrics, evenly, frechet_distance, halves_distance, principal_axes
from diffcore.plugins.output import Metric
from diffcore.states.noise import generator_for

logger = logging.getLogger(__name__)

_TESTED = 500
"""The number of real examples in the test of features."""

_CLEAR = 3.0
"""Shuffled examples must be so many times as far from real ones as two halves of the real ones are from each other."""


@dataclass(frozen=True)
class Components:
    """The principal components of flattened real examples, and the distance of an input from the space they span."""

    flat: Callable[[Tensor], Tensor]
    mean: Tensor
    axes: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Features `[n, k + 1]` of inputs `[n, ...]`: the k components and the distance, which noise makes large."""
        centred = self.flat(inputs) - self.mean
        components = centred @ self.axes
        rest = (centred.square().sum(1) - components.square().sum(1)).clamp(min=0).sqrt()
        return torch.cat([components, rest[:, None]], 1)


@dataclass(frozen=True)
class Judge:
    """Features of inputs, and their classes.

    * `space`: what the features are, for the meaning of metrics.
    * `classifier`: the classifier; None if it cannot tell the classes of real examples apart, or if there are none.
    * `components`: the features that are used instead of those of the classifier; None if those are used.
    * `accuracy`: the accuracy of the classifier on real examples.
    """

    space: str
    classifier: Classifier | None = None
    components: Components | None = None
    accuracy: float = math.nan

    def features_and_logits(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features `[n, d]` of inputs `[n, ...]`, and the logits `[n, classes]`, None without a classifier."""
        features, logits = (None, None) if self.classifier is None else self.classifier.features_and_logits(inputs)
        return (features if self.components is None else self.components(inputs)), logits  # type: ignore[return-value]

    def agreement(self, logits: Tensor | None, requested: Tensor) -> list[Metric]:
        """The agreement with the requested classes `[n]`, if there is a classifier to tell."""
        return [] if logits is None else agreement_metrics(logits, requested, self.accuracy)


def judge_of(
    body: Callable[[], nn.Module],
    size: int,
    train: tuple[Tensor, Tensor],
    tested: tuple[Tensor, Tensor],
    classes: int,
    cache: Path,
    name: str,
    what: str,
    augment: Augment | None = None,
    steps: int | None = None,
    flat: Callable[[Tensor], Tensor] | None = None,
) -> Judge:
    """A judge of inputs like those of `train`: a classifier that is tested on `tested`, or principal components.

    Both are inputs `[n, ...]` and labels `[n]`. The arguments of the classifier are those of
    `diffcore.evaluation.classifier.trained_classifier`; the others are `what` inputs are, in the plural, and `flat`,
    which makes float vectors `[n, d]` of inputs, by default all their values.
    """
    flat = flat or _all_values
    if classes < 2 or len(train[1].unique()) < 2:
        reason = "" if not classes else ", as there is one class"
        return Judge(f"principal components of {what}{reason}", components=_components(train[0], flat))
    classifier = trained_classifier(body, size, *train, classes, cache, name, augment, steps)
    accuracy = accuracy_above_chance(classifier, *tested)
    if accuracy is None:
        reason = "as a classifier cannot tell the classes apart"
        return Judge(f"principal components of {what}, {reason}", components=_components(train[0], flat))
    if not tells_noise(classifier, train[0]):
        reason = "as the features of a classifier do not tell real examples from noise"
        return Judge(f"principal components of {what}, {reason}", classifier, _components(train[0], flat), accuracy)
    return Judge("features of a classifier trained on the data", classifier, None, accuracy)


def accuracy_above_chance(classifier: Classifier, inputs: Tensor, labels: Tensor) -> float | None:
    """The accuracy of a classifier on real examples; None if it may be chance, which is logged.

    It must be two standard errors above the accuracy of always answering with the most frequent class.
    """
    _, logits = classifier.features_and_logits(inputs)
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    chance = (torch.bincount(labels).max() / len(labels)).item()
    if accuracy > chance + 2 * math.sqrt(chance * (1 - chance) / len(labels)):
        return accuracy
    logger.warning(
        f"no class agreement: a classifier assigns {100 * accuracy:.0f} % of {len(labels)} real examples to their "
        "class, which may be chance"
    )
    return None


def tells_noise(classifier: Classifier, inputs: Tensor) -> bool:
    """Whether the features of a classifier tell real `inputs` `[n, ...]` from the same inputs with shuffled values."""
    if len(inputs) < 4:
        return False
    real = evenly(inputs, min(len(inputs), _TESTED))
    keys = torch.rand(real.flatten(1).shape, generator=generator_for("shuffled"))
    shuffled = real.flatten(1).gather(1, keys.argsort(1)).reshape(real.shape)
    of_real, of_shuffled = (classifier.features_and_logits(part)[0] for part in (real, shuffled))
    return frechet_distance(of_shuffled, of_real) > _CLEAR * halves_distance(of_real)


def _all_values(inputs: Tensor) -> Tensor:
    return inputs.flatten(1).float()


def _components(inputs: Tensor, flat: Callable[[Tensor], Tensor]) -> Components:
    vectors = flat(inputs)
    mean = vectors.mean(0)
    return Components(flat, mean, principal_axes(vectors - mean, 64))
