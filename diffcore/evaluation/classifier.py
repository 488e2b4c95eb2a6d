"""A small classifier of real data, in whose features samples are compared with them.

Frechet distances, Inception scores and agreement with the asked class were made for a network trained on something
else; one that is trained on the data themselves tells their classes apart better, and needs no download.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.states.noise import generator_for
from diffcore.system.cache import trained_once

_STEPS, _BATCH = 1500, 128
_LEARNED = 1e-6
"""The loss of a batch that there is nothing more to learn from."""

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Classifier(nn.Module):
    """Features `[B, d]` of a body, and a linear layer that gives logits `[B, classes]`."""

    def __init__(self, body: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, classes]`."""
        return self.head(self.body(x))

    @torch.no_grad()
    def judged(self, x: Tensor, size: int = 500) -> tuple[Tensor, Tensor]:
        """Features `[n, d]` and logits `[n, classes]` of any number of inputs, a few at a time."""
        features = torch.cat([self.body(part) for part in x.split(size)])
        return features, self.head(features)


def trained_classifier(
    body: Callable[[], nn.Module],
    features: int,
    inputs: Tensor,
    labels: Tensor,
    classes: int,
    cache: Path,
    name: str,
    augment: Augment | None = None,
    steps: int | None = None,
) -> Classifier:
    """The classifier of `inputs` `[n, ...]`, from the cache or trained now by Adam: `steps` (1,500) of 128.

    `name` tells in the cache what it is of, and changes with `body` or `augment`, which may change a batch at random;
    the file is told apart by the sum of the data.
    """
    steps = steps or _STEPS
    digest = hashlib.sha256(f"{name} {steps} {inputs.dtype}".encode())
    for tensor in (inputs, labels):
        digest.update(tensor.contiguous().numpy().tobytes())
    path = cache / f"{name}-{digest.hexdigest()[:24]}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(body(), features, classes)
        trained_once(classifier, path, lambda: _fit(classifier, inputs, labels, augment, steps))
    return classifier.eval()


def _fit(classifier: Classifier, inputs: Tensor, labels: Tensor, augment: Augment | None, steps: int) -> None:
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = generator_for("classifier")
    classifier.train()
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (_BATCH,), generator=generator)
        batch = inputs[chosen]
        if augment is not None:
            batch = augment(batch, generator)
        loss = functional.cross_entropy(classifier(batch), labels[chosen])
        if loss > _LEARNED:  # of less, gradients are subnormal numbers, which CPUs are slow at
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
