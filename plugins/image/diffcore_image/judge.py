"""Figures of images: agreement with the asked class, and the Frechet distance to real images.

Both come from a small classifier that is trained on the real data, once; its weights are kept in the cache under
the sum of the data. Sets without classes are compared by their principal components.
"""

import hashlib
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional

from diffcore.cache import trained_once
from diffcore.conditions import Conditions
from diffcore.data import Data
from diffcore.figures import frechet_distance, halves_distance
from diffcore.noise import generator_for
from diffcore.output import Figure
from diffcore_image.codec import ImageCodec

FEATURES = 64
_SIDE = 32
"""Larger images are averaged down to this before they are classified."""
_STEPS, _BATCH = 1500, 128
_LEARNED = 1e-6
"""The loss of a batch that there is nothing more to learn from."""
_REFERENCE = 2000
"""Held-out images are compared with where there are at least so many, else all real images."""
_RECIPE = "1"
"""Changes when the classifier or its training does, so that old weights are not used."""


class Classifier(nn.Module):
    """Three convolutions, 64 features, one linear layer. Pixels uint8 `[B, C, H, W]`."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(128 * 16, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def features(self, pixels: Tensor) -> Tensor:
        """`[B, 64]`."""
        x = pixels.float() / 255 - 0.5
        if max(x.shape[2:]) > _SIDE:
            x = functional.adaptive_avg_pool2d(x, _SIDE)
        return self.body(x)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits `[B, classes]`."""
        return self.head(self.features(pixels))


def trained_classifier(examples: TensorDict, classes: int, cache: Path) -> Classifier:
    """The classifier of these images, from the cache or trained now: 1,500 steps of 128, seed 0."""
    pixels, labels = examples["pixels"], examples["label"]
    digest = hashlib.sha256(_RECIPE.encode() + pixels.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()[:24]
    path = cache / f"image-classifier-{digest}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(pixels.shape[1], classes)
        trained_once(classifier, path, lambda: _fit(classifier, pixels, labels))
    return classifier.eval()


def _fit(classifier: Classifier, pixels: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=_STEPS)
    generator = generator_for("image classifier")
    classifier.train()
    for _ in range(_STEPS):
        chosen = torch.randint(len(pixels), (_BATCH,), generator=generator)
        loss = functional.cross_entropy(classifier(pixels[chosen]), labels[chosen])
        if loss > _LEARNED:  # of less, gradients are subnormal numbers, which CPUs are slow at
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()


@torch.no_grad()
def _in_batches(module: nn.Module, pixels: Tensor, method: str = "forward") -> Tensor:
    return torch.cat([getattr(module, method)(part) for part in pixels.split(500)])


class ImageJudge:
    """Figures against the real images `reference`."""

    def __init__(self, codec: ImageCodec, data: Data, cache: Path) -> None:
        held_out = data.held_out
        if held_out is not None and len(held_out) >= _REFERENCE:
            self._reference, self._words = held_out, "held-out real images"
        else:
            parts = [data.examples] if held_out is None else [data.examples, held_out]
            self._reference, self._words = TensorDict.cat(parts), "real images, all there are"
        self._classes = codec.facts.classes
        if self._classes:
            self._classifier = trained_classifier(data.examples, len(self._classes), cache)
            tested = data.examples if held_out is None else held_out
            right = _in_batches(self._classifier, tested["pixels"]).argmax(1) == tested["label"]
            self._accuracy = right.double().mean().item()
        else:
            flat = self._flat(self._reference["pixels"])
            _, _, self._axes = torch.pca_lowrank(flat, q=min(FEATURES, *flat.shape), niter=4)

    @staticmethod
    def _flat(pixels: Tensor) -> Tensor:
        small = functional.adaptive_avg_pool2d(pixels.float() / 255, min(_SIDE, *pixels.shape[2:]))
        return small.flatten(1)

    def features(self, pixels: Tensor) -> Tensor:
        """`[B, d]`: the classifier's last features, or principal components."""
        if self._classes:
            return _in_batches(self._classifier, pixels, "features")
        return self._flat(pixels) @ self._axes

    def __call__(self, samples: Tensor, conditions: Conditions) -> list[Figure]:
        reference = self.features(self._reference["pixels"])
        distance = frechet_distance(self.features(samples), reference)
        real = halves_distance(reference, self._reference["label"])
        kind = "features of a classifier trained on the data" if self._classes else "principal components of pixels"
        figures = [
            Figure("frechet_distance", distance, f"samples against {len(reference)} {self._words}, in {kind}"),
            Figure("frechet_distance_real", real, "two halves of those real images, class by class, mean of 5 splits"),
            Figure("frechet_ratio", distance / max(real, 1e-12), "the first over the second"),
        ]
        if self._classes:
            predicted = _in_batches(self._classifier, samples).argmax(1)
            agreement = (predicted == conditions["label"]).double().mean().item()
            figures = [
                Figure("class_agreement", agreement, "share of samples that the classifier takes for the asked class"),
                Figure("class_agreement_real", self._accuracy, "the same for held-out real images"),
                *figures,
            ]
        return figures


def build_judge(codec: ImageCodec, data: Data, cache: Path) -> ImageJudge:
    """The judge of a data set."""
    return ImageJudge(codec, data, cache)
