"""The one judge of all families: the classifier of the plugin for images, and distances of pixels."""

import time
from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch import Tensor

from diffcore.evaluation.judge import judge_of
from diffcore.evaluation.metrics import frechet_distance
from diffcore.plugins.data import Data
from diffcore.system.cache import cache_folder
from diffcore_image.emoji.retrieval import nearest
from diffcore_image.evaluator import PixelFeatures

from .model import CLASSES, Model

NEIGHBOURS = 3
NEAREST_OF = 2000
"""The number of samples of which the nearest training image is looked for."""


def inside(points: Tensor, balls: Tensor, neighbours: int = NEIGHBOURS) -> float:
    """The fraction of `points` `[n, d]` in a ball around any of `balls` `[m, d]` that reaches to its k-th neighbour."""
    radii = torch.cat(
        [torch.cdist(part, balls).topk(neighbours + 1, largest=False).values[:, -1] for part in balls.split(1000)]
    )
    return torch.cat([(torch.cdist(part, balls) <= radii).any(1) for part in points.split(1000)]).double().mean().item()


class Judge:
    """Compares images with the held-out ones, by the features of the classifier of `diffcore_image.evaluator`."""

    def __init__(self, data: Data) -> None:
        train, self.held_out = data.examples, data.held_out
        parts = ((part["pixels"], part["label"]) for part in (train, self.held_out))
        body = partial(PixelFeatures, 1)
        self.judge = judge_of(body, PixelFeatures.size, *parts, CLASSES, cache_folder(), "image-classifier-2", "pixels")
        self.train = train
        self.real, _ = self.judge.features_and_logits(self.held_out["pixels"])

    @cached_property
    def known(self) -> Tensor:
        """The features of the first 10,000 training images."""
        return self.judge.features_and_logits(self.train["pixels"][:10_000])[0]

    def near(self, pixels: Tensor) -> float:
        """The mean distance to the nearest training image, RMS of bytes."""
        return nearest(pixels[:NEAREST_OF], self.train["pixels"])[0].mean().item()

    def __call__(self, pixels: Tensor, labels: Tensor) -> dict[str, float]:
        """The metrics of images of the labels."""
        features, logits = self.judge.features_and_logits(pixels)
        return {
            "frechet": frechet_distance(features, self.real),
            "agreement": (logits.argmax(1) == labels).double().mean().item(),
            "precision": inside(features, self.real),
            "recall": inside(self.real, features),
            "nearest": self.near(pixels),
        }

    def of_trial(self, model: Model, samples: int) -> float:
        """What trials are chosen by: the Frechet distance of few samples to the first 10,000 training images."""
        name = next(iter(model.draws))
        features, _ = self.judge.features_and_logits(model.draws[name](self.train["label"][:samples], 0))
        return frechet_distance(features, self.known)

    def of_real(self, samples: int) -> dict[str, float]:
        """The same metrics of training images; the nearest training image is that of held-out images."""
        some = self.train[:samples]
        found = self(some["pixels"], some["label"])
        return {**found, "nearest": self.near(self.held_out["pixels"])}

    def of_samples(self, draw: Callable[[Tensor, int], Tensor], samples: int) -> tuple[dict[str, float], Tensor]:
        """The metrics of samples, which have the labels of the held-out images, and the first 300 samples."""
        labels, started = self.held_out["label"][:samples], time.process_time()
        pixels = draw(labels, 0)
        seconds = (time.process_time() - started) * 1000 / samples
        return {**self(pixels, labels), "seconds": seconds}, pixels[:300].clone()

    def of_likelihood(self, function: Callable[[Tensor, Tensor], Tensor], likelihoods: int) -> tuple[float, float]:
        """The mean of bits per dimension of held-out images, and its standard error."""
        each = function(self.held_out["pixels"][:likelihoods], self.held_out["label"][:likelihoods]).double()
        return each.mean().item(), each.std().item() / len(each) ** 0.5
