"""Denoisers: a network and its parameterisation give one prediction, of which x0, eps, v and score are views."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from diffcore.conditions import Condition, Conditions, nulls
from diffcore.levels import Level
from diffcore.nn.embedding import Conditioning
from diffcore.spaces import Mask
from diffcore.state import State, first_field, per_sample

Parameterisation = Literal["eps", "x0", "v"]


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of x = alpha x0 + sigma eps: x0 and eps, which always satisfy that equation."""

    x0: State
    eps: State
    level: Level

    @property
    def v(self) -> State:
        """v = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2). Salimans & Ho 2022, appendix D."""
        total = self.level.total
        return (
            per_sample(self.level.alpha / total, self.eps) * self.eps
            - per_sample(self.level.sigma / total, self.x0) * self.x0
        )

    @property
    def score(self) -> State:
        """grad log p(x) = -eps / sigma. Song et al. 2021, section 3; Vincent 2011."""
        return per_sample(-1 / self.level.sigma, self.eps) * self.eps


def from_x0(x0: State, x: State, level: Level) -> Prediction:
    """The prediction whose x0 is given: eps = (x - alpha x0) / sigma."""
    return Prediction(x0, per_sample(1 / level.sigma, x) * (x - per_sample(level.alpha, x) * x0), level)


def from_eps(eps: State, x: State, level: Level) -> Prediction:
    """The prediction whose eps is given: x0 = (x - sigma eps) / alpha. Undefined at alpha = 0."""
    return Prediction(per_sample(1 / level.alpha, x) * (x - per_sample(level.sigma, x) * eps), eps, level)


def from_v(v: State, x: State, level: Level) -> Prediction:
    """The prediction whose v is given: x0 = (a x - s v) / t, eps = (s x + a v) / t.

    Here t = sqrt(alpha^2 + sigma^2), a = alpha / t, s = sigma / t, and x0 = (alpha x / t - sigma v) / t.
    Both views are sums of bounded terms, precise at both ends. For unit-variance data this is EDM's
    preconditioning with sigma_data = 1 (Karras et al. 2022, table 1), whose network output is -v.
    """
    total = level.total
    a, s = level.alpha / total, level.sigma / total
    x = per_sample(1 / total, x) * x
    x0 = per_sample(a, x) * x - per_sample(s, x) * v
    eps = per_sample(s, x) * x + per_sample(a, x) * v
    return Prediction(x0, eps, level)


_VIEWS = {"x0": from_x0, "eps": from_eps, "v": from_v}


class Denoise(Protocol):
    """A denoiser as guidance and sampling see it: a function, so decorators compose."""

    def __call__(
        self, x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None
    ) -> Prediction: ...


class Backbone(Protocol):
    """A network: a unit-variance state, one conditioning vector `[B, width]` a sample, and a mask to a like state."""

    width: int

    def __call__(self, x: State, conditioning: Tensor, mask: Mask = None) -> State: ...


class Denoiser(nn.Module):
    """A backbone that is told the log-SNR and the conditions, read in one parameterisation.

    The backbone sees x / sqrt(alpha^2 + sigma^2) and lambda = log(alpha^2 / sigma^2), never a step index or a
    schedule's scaling, so a trained model runs under any schedule, solver and grid.
    """

    def __init__(
        self, backbone: nn.Module, conditions: tuple[Condition, ...], parameterisation: Parameterisation = "v"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.conditioning = Conditioning(conditions, int(backbone.width))  # type: ignore[arg-type]
        self.conditions = conditions
        self.parameterisation = parameterisation

    def forward(self, x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        """Predict x0 and eps of `x` at `level` (floats, or tensors `[B]`)."""
        batch, device = x.shape[0], first_field(x).device
        if conditions is None:
            conditions = nulls(self.conditions, batch, device)
        log_snr = level.log_snr
        if not isinstance(log_snr, Tensor):  # filling, unlike copying a scalar, does not wait for the device
            log_snr = torch.full((batch,), log_snr, device=device)
        scaled = per_sample(1 / level.total, x) * x
        output = self.backbone(scaled, self.conditioning(log_snr.float(), conditions), mask)
        return _VIEWS[self.parameterisation](output, x, level)
