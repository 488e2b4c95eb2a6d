"""Metrics of images: agreement with the requested class, and the Frechet distance to real images.

Both use a small classifier that is trained once on the real data. Without classes that it can tell apart, the Frechet
distance is that of the principal components of the pixels.
"""

from functools import partial
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.evaluation.judge import judge_of
from diffcore.evaluation.metrics import distance_metrics
from diffcore.nn.features import GridFeatures, flat
from diffcore.plugins.data import Data, few_of_mapped
from diffcore.plugins.output import Metric
from diffcore.plugins.text import NAME as PROMPT
from diffcore.plugins.text import prompts_of, text_values
from diffcore_image.codec import ImageCodec
from diffcore_image.emoji.metrics import EmojiMetrics
from diffcore_image.scenes.metrics import scene_metrics

_REFERENCE_SIZE = 2000
"""Samples are compared with the held-out images if there are at least so many, else with all real images."""
_CLASSIFIER = "image-classifier-2"
"""Name of the classifier in the cache. Change it together with the classifier, so that old weights are not used."""


class PixelFeatures(GridFeatures):
    """Features `[B, 64]` of uint8 pixels `[B, C, H, W]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_scaled(x))


class ImageEvaluator:
    """Compares samples, uint8 `[n, C, H, W]`, with real images.

    The classifier is trained on the training images, and its weights are kept in `cache`.
    """

    def __init__(self, codec: ImageCodec, data: Data, cache: Path) -> None:
        seen, classes = few_of_mapped(data.examples), len(codec.facts.classes)
        held_out = None if data.held_out is None else few_of_mapped(data.held_out)
        self._classes = classes
        if held_out is not None and len(held_out) >= _REFERENCE_SIZE:
            self._reference, self._reference_name = held_out, "held-out real images"
        else:
            whole = [seen] if held_out is None else [seen, held_out]
            how = "the whole data set" if len(seen) == len(data.examples) else f"{len(seen)} of the training images"
            self._reference, self._reference_name = TensorDict.cat(whole), f"real images ({how})"
        parts = (seen, seen if held_out is None else held_out)
        train, tested = ((part["pixels"], part["label"]) for part in parts)
        body, size = partial(PixelFeatures, codec.facts.channels), PixelFeatures.size
        self._judge = judge_of(body, size, train, tested, classes, cache, _CLASSIFIER, "pixels", flat=_vectors)
        self._real, _ = self._judge.features_and_logits(self._reference["pixels"])

    def __call__(self, samples: Tensor, conditions: Conditions) -> list[Metric]:
        """The metrics of the samples; the class agreement counts only those with a requested class."""
        features, logits = self._judge.features_and_logits(samples)
        labels, space = self._reference["label"], self._judge.space
        return [
            *self._agreement(logits, conditions.get("label")),
            *distance_metrics(features, self._real, labels, self._reference_name, space),
        ]

    def _agreement(self, logits: Tensor | None, label: Tensor | None) -> list[Metric]:
        given = None if label is None else label.cpu() < self._classes
        if logits is None or label is None or given is None or not given.any():
            return []
        return self._judge.agreement(logits[given], label.cpu()[given])


def _vectors(pixels: Tensor) -> Tensor:
    """Averaged pixels as vectors `[n, d]`."""
    return flat(_scaled(pixels))


def _scaled(pixels: Tensor) -> Tensor:
    """uint8 pixels as floats in [-0.5, 0.5]."""
    return pixels.float() / 255 - 0.5


class SceneEvaluator(ImageEvaluator):
    """Also reads off the pictures whether they show what their prompts ask for."""

    def __init__(self, codec: ImageCodec, data: Data, cache: Path) -> None:
        super().__init__(codec, data, cache)
        self._conditions = codec.conditions

    def __call__(self, samples: Tensor, conditions: Conditions) -> list[Metric]:
        """The metrics of the samples, which were generated with `conditions`."""
        prompts = prompts_of(self._conditions, conditions, len(samples))
        return [*scene_metrics(samples, prompts), *super().__call__(samples, conditions)]


class EmojiEvaluator(ImageEvaluator):
    """Also tells whether pictures show what their texts say, and whether they are copies of training pictures."""

    def __init__(self, codec: ImageCodec, data: Data, cache: Path) -> None:
        super().__init__(codec, data, cache)
        assert data.held_out is not None
        assert data.asked is not None
        self._conditions, self._asked = codec.conditions, data.asked
        self._emoji = EmojiMetrics(data.examples, data.held_out, cache)

    def __call__(self, samples: Tensor, conditions: Conditions) -> list[Metric]:
        """The metrics of the samples. Those of texts need samples of the texts that the data set asks for, in turn."""
        asked = self._asked[torch.arange(len(samples)) % len(self._asked)]
        texts = text_values(self._conditions, asked).get(PROMPT)
        given = conditions.get(PROMPT)
        of_texts = texts is not None and given is not None and torch.equal(texts, given.cpu())
        return [*(self._emoji(samples, asked) if of_texts else ()), *super().__call__(samples, conditions)]


_EVALUATORS = {None: ImageEvaluator, "scenes": SceneEvaluator, "emoji": EmojiEvaluator}


def build_evaluator(codec: ImageCodec, data: Data, cache: Path) -> ImageEvaluator:
    """The evaluator of a data set; `cache` is the folder that keeps its classifier."""
    return _EVALUATORS[codec.facts.judge](codec, data, cache)
