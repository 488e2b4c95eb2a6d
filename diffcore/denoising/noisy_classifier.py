"""Noisy classifiers: networks that tell from a noisy state what it will be. Guidance follows their gradient."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions import Condition, Conditions
from diffcore.denoising.denoiser import log_snr_of
from diffcore.denoising.embedding import Conditioning
from diffcore.denoising.precision import computed
from diffcore.names import Precision
from diffcore.states.categories import by_themselves
from diffcore.states.level import Level
from diffcore.states.spaces import Mask
from diffcore.states.state import State, combine, first_field


class ClassifierBackbone(Protocol):
    """A network: a unit-variance state, one conditioning vector `[B, width]` a sample, and a mask to `[B, outputs]`."""

    width: int

    def __call__(self, x: State, conditioning: Tensor, mask: Mask = None) -> Tensor: ...


class NoisyClassifier(nn.Module):
    """p(c | x_t): a backbone that is told the log-SNR and says of each condition what it needs to be judged by.

    The backbone's `outputs` are laid end to end in the order of `conditions`; each condition says how many it takes
    and what they mean (`outputs`, `log_likelihood`). The state is scaled to unit variance and the noise told as to a
    denoiser, so a trained classifier guides under any schedule, solver and grid.
    """

    def __init__(self, backbone: nn.Module, conditions: tuple[Condition, ...], data_std: float = 1.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.conditioning = Conditioning((), int(backbone.width))  # type: ignore[arg-type]
        self.conditions = conditions
        self.data_std = data_std
        self.views: Mapping[str, Any] = getattr(backbone, "views", {})
        self.precision: Precision = "float32"

    def forward(self, x: State, level: Level, mask: Mask = None) -> dict[str, Tensor]:
        """What is said of each condition of `x` at `level` (floats, or tensors `[B]`): `[B, outputs]` by name."""
        batch, device = x.shape[0], first_field(x).device
        inner = Level(level.alpha * self.data_std, level.sigma)
        conditioning = self.conditioning(log_snr_of(inner, batch, device), {})
        scaled, unit = combine((1 / inner.total, x)), Level(inner.alpha / inner.total, inner.sigma / inner.total)
        output = computed(self.backbone, self.precision, by_themselves(self.views, scaled, unit), conditioning, mask)
        pieces = output.split([condition.outputs for condition in self.conditions], dim=1)
        return {condition.name: piece for condition, piece in zip(self.conditions, pieces, strict=True)}

    def log_likelihood(self, x: State, level: Level, conditions: Conditions | None, mask: Mask = None) -> Tensor:
        """log p(c | x_t), `[B]` nats, summed over the conditions that are given.

        As a log-weight of `energy` it is classifier guidance (Dhariwal & Nichol 2021); its negative mean over
        the noise levels of a schedule is what a classifier is trained on.
        """
        said = self(x, level, mask)
        terms = [
            condition.log_likelihood(said[condition.name], conditions[condition.name])
            for condition in self.conditions
            if conditions and condition.name in conditions
        ]
        return torch.stack(terms).sum(0) if terms else first_field(x).new_zeros(x.shape[0])
