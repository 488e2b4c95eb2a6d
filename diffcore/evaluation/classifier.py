"""A small classifier that is trained on the real data, and whose features are used to compare samples with them.

The Frechet distance, the Inception score and the agreement with the requested class usually use a network that was
trained on other data. One that is trained on the data themselves separates their classes better, and no weights have
to be downloaded.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.evaluation.effort import steps_to_train
from diffcore.evaluation.trained_once import entry, trained_once
from diffcore.states.global_random import seeded
from diffcore.states.noise import generator_for
from diffcore.system.progress import counter

_STEPS, _BATCH = 1500, 128
_LEARNED = 1e-6
"""Batches with a smaller loss are skipped in training."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""A random change of a batch of inputs."""


class Classifier(nn.Module):
    """A network `body` that computes features `[B, d]`, and a linear layer that computes logits `[B, classes]`."""

    def __init__(self, body: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, classes]`."""
        return self.head(self.body(x))

    @torch.no_grad()
    def features_and_logits(self, x: Tensor, size: int = 500) -> tuple[Tensor, Tensor]:
        """Features `[n, d]` and logits `[n, classes]` of n inputs, in batches of `size`."""
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
    """A classifier of `inputs` `[n, ...]` with `labels` `[n]`, from the folder `cache` or trained now.

    It is trained with Adam for `steps` steps (default 1,500) of 128 examples, to which `augment` applies random
    changes. The name of the cached file contains `name` and a SHA-256 of `name`, `steps` and the data: use another
    `name` whenever `body` or `augment` changes.
    """
    steps = steps_to_train(steps or _STEPS)
    path = entry(cache, name, f"{steps} {inputs.dtype}", inputs, labels)
    with seeded(0):
        classifier = Classifier(body(), features, classes)
        trained_once(classifier, path, lambda: _fit(classifier, inputs, labels, augment, steps))
    return classifier.eval()


def _fit(classifier: Classifier, inputs: Tensor, labels: Tensor, augment: Augment | None, steps: int) -> None:
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = generator_for("classifier")
    classifier.train()
    with counter("preparing the evaluation", steps) as after_step:
        for _ in range(steps):
            chosen = torch.randint(len(inputs), (_BATCH,), generator=generator)
            batch = inputs[chosen]
            if augment is not None:
                batch = augment(batch, generator)
            loss = functional.cross_entropy(classifier(batch), labels[chosen])
            if loss > _LEARNED:  # below, gradients are subnormal numbers, which are slow on CPUs
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
            after_step(1)
