"""Figures of images: agreement with the asked class, and the Frechet distance to real images.

Both come from a small classifier that is trained on the real data, once. Sets without classes are compared by their
principal components.
"""

from functools import partial
from pathlib import Path

from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.evaluation.classifier import trained_classifier
from diffcore.evaluation.metrics import agreement_metrics, distance_metrics, principal_axes
from diffcore.nn.features import GridFeatures, flat
from diffcore.plugins.data import Data
from diffcore.plugins.output import Metric
from diffcore_image.codec import ImageCodec

_REFERENCE = 2000
"""Held-out images are compared with where there are at least so many, else all real images."""
_RECIPE = "image-classifier-2"
"""Changes when the classifier does, so that old weights are not used."""


class PixelFeatures(GridFeatures):
    """Features of uint8 pixels `[B, C, H, W]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_scaled(x))


class ImageEvaluator:
    """Figures against real images."""

    def __init__(self, codec: ImageCodec, data: Data, cache: Path) -> None:
        held_out, classes = data.held_out, len(codec.facts.classes)
        if held_out is not None and len(held_out) >= _REFERENCE:
            self._reference, self._words = held_out, "held-out real images"
        else:
            parts = [data.examples] if held_out is None else [data.examples, held_out]
            self._reference, self._words = TensorDict.cat(parts), "real images, all there are"
        self._classifier = None
        if classes:
            pixels, labels = data.examples["pixels"], data.examples["label"]
            body, size = partial(PixelFeatures, codec.facts.channels), PixelFeatures.size
            self._classifier = trained_classifier(body, size, pixels, labels, classes, cache, _RECIPE)
            tested = data.examples if held_out is None else held_out
            _, logits = self._classifier.judged(tested["pixels"])
            self._accuracy = (logits.argmax(1) == tested["label"]).double().mean().item()
            self._real, _ = self._classifier.judged(self._reference["pixels"])
        else:
            vectors = flat(_scaled(self._reference["pixels"]))
            self._axes = principal_axes(vectors, GridFeatures.size)
            self._real = vectors @ self._axes

    def __call__(self, samples: Tensor, conditions: Conditions) -> list[Metric]:
        labels = self._reference["label"]
        if self._classifier is None:
            found, space = flat(_scaled(samples)) @ self._axes, "principal components of pixels"
            return distance_metrics(found, self._real, labels, self._words, space)
        features, logits = self._classifier.judged(samples)
        space = "features of a classifier trained on the data"
        return [
            *agreement_metrics(logits, conditions["label"], self._accuracy),
            *distance_metrics(features, self._real, labels, self._words, space),
        ]


def _scaled(pixels: Tensor) -> Tensor:
    """uint8 pixels as numbers from -0.5 to 0.5."""
    return pixels.float() / 255 - 0.5


def build_evaluator(codec: ImageCodec, data: Data, cache: Path) -> ImageEvaluator:
    """The evaluator of a data set."""
    return ImageEvaluator(codec, data, cache)
