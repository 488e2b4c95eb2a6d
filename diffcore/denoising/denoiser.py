"""Denoisers: a network and its parameterisation give one prediction, of which x0, eps, v and score are views."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from diffcore.denoising.conditions import Condition, Conditions, nulls
from diffcore.denoising.embedding import Conditioning
from diffcore.denoising.precision import computed
from diffcore.errors import UserError
from diffcore.names import Parameterisation, Precision
from diffcore.process.schedules import Schedule
from diffcore.states.categories import Categories, by_themselves
from diffcore.states.level import Level
from diffcore.states.spaces import Mask
from diffcore.states.state import State, combine, fields, first_field


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of x = alpha x0 + sigma eps: one output, of which x0, eps, v and score are views.

    `view` tells what `output` is; the others follow from it and x when they are asked for, each by a sum that is
    as precise as the output allows. All views are affine in the output, so predictions of the same x are mixed by
    mixing their outputs. `variance` is where a network that learns it puts the log-variance of ancestral sampling
    between its bounds: 0 is the posterior's, 1 the forward step's (Nichol & Dhariwal 2021, eq. 15).
    """

    x: State
    level: Level
    output: State
    view: Parameterisation = "x0"
    variance: State | None = None

    @cached_property
    def x0(self) -> State:
        """E[x0 | x]. Of eps: (x - sigma eps) / alpha, undefined at alpha = 0. Of v: (alpha x - t sigma v) / t^2.

        Here and below t^2 = alpha^2 + sigma^2.
        """
        alpha, sigma = self.level
        if self.view == "x0":
            return self.output
        if self.view == "eps":
            return combine((1 / alpha, self.x), (-sigma / alpha, self.output))
        total = self.level.total
        return combine((alpha / total**2, self.x), (-sigma / total, self.output))

    @cached_property
    def eps(self) -> State:
        """E[eps | x]. Of x0: (x - alpha x0) / sigma. Of v: (sigma x + t alpha v) / t^2."""
        alpha, sigma = self.level
        if self.view == "eps":
            return self.output
        if self.view == "x0":
            return combine((1 / sigma, self.x), (-alpha / sigma, self.output))
        total = self.level.total
        return combine((sigma / total**2, self.x), (alpha / total, self.output))

    @cached_property
    def v(self) -> State:
        """v = (alpha eps - sigma x0) / t. Salimans & Ho 2022, appendix D.

        Of x0: (alpha x - t^2 x0) / (sigma t). Of eps: (t^2 eps - sigma x) / (alpha t).
        """
        alpha, sigma = self.level
        if self.view == "v":
            return self.output
        total = self.level.total
        if self.view == "x0":
            return combine((alpha / (sigma * total), self.x), (-total / sigma, self.output))
        return combine((-sigma / (alpha * total), self.x), (total / alpha, self.output))

    @property
    def score(self) -> State:
        """grad log p(x) = -eps / sigma. Song et al. 2021, section 3; Vincent 2011."""
        return combine((-1 / self.level.sigma, self.eps))


def from_x0(x0: State, x: State, level: Level) -> Prediction:
    """The prediction whose x0 is given. Its eps is undefined at sigma = 0."""
    return Prediction(x, level, x0, "x0")


def from_eps(eps: State, x: State, level: Level) -> Prediction:
    """The prediction whose eps is given. Its x0 is undefined at alpha = 0."""
    return Prediction(x, level, eps, "eps")


def from_v(v: State, x: State, level: Level) -> Prediction:
    """The prediction whose v is given: both x0 and eps are sums of bounded terms, precise at both ends.

    For unit-variance data it is EDM's preconditioning with sigma_data = 1 (Karras et al. 2022, table 1), whose
    network output is -v.
    """
    return Prediction(x, level, v, "v")


def velocity(x0: State, eps: State, level: Level) -> State:
    """v = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2) of a state whose parts are known."""
    total = level.total
    return combine((level.alpha / total, eps), (-level.sigma / total, x0))


def require_defined(parameterisation: Parameterisation, schedule: Schedule) -> None:
    """Raise `UserError` where x0 cannot be read off the network's output everywhere on the schedule."""
    if parameterisation == "eps" and schedule.log_snr(torch.ones(1, dtype=torch.float64)).item() == -math.inf:
        raise UserError(
            "parameterisation eps cannot be used with a schedule that ends at zero SNR: "
            "x0 = (x - sigma eps) / alpha divides by zero there; "
            "train with `parameterisation` v or x0, or give `schedule.no_zero_terminal`"
        )


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

    The backbone sees x / sqrt(alpha^2 d^2 + sigma^2), where d is the data's standard deviation, and
    lambda = log(alpha^2 d^2 / sigma^2), never a step index or a schedule's scaling, so a trained model runs under any
    schedule, solver and grid. With the parameterisation `v` this is the preconditioning of EDM with sigma_data = d
    (Karras et al. 2022, table 1). A backbone that learns variances returns a pair of states: output and variance.
    A backbone may give some of its fields in a view of their own, which its `views` name: one of the parameterisations,
    or the logits of `Categories`, which become x0 by Bayes' rule; such a field it is shown as `by_themselves` has it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        conditions: tuple[Condition, ...] = (),
        parameterisation: Parameterisation = "v",
        data_std: float = 1.0,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.conditioning = Conditioning(conditions, int(backbone.width if width is None else width))  # type: ignore[arg-type]
        self.conditions = conditions
        self.parameterisation = parameterisation
        self.data_std = data_std
        self.views: Mapping[str, Parameterisation | Categories] = getattr(backbone, "views", {})
        self.precision: Precision = "float32"

    def forward(self, x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        """Predict x0 and eps of `x` at `level` (floats, or tensors `[B]`)."""
        batch, device = x.shape[0], first_field(x).device
        if conditions is None:
            conditions = nulls(self.conditions, batch, device)
        # x = (alpha d) (x0 / d) + sigma eps: the network works on data of unit variance.
        inner = Level(level.alpha * self.data_std, level.sigma)
        scaled, unit = combine((1 / inner.total, x)), Level(inner.alpha / inner.total, inner.sigma / inner.total)
        shown = by_themselves(self.views, scaled, unit)
        conditioning = self.conditioning(log_snr_of(inner, batch, device), conditions)
        context = (conditioning,) if mask is None else (conditioning, mask)
        output = computed(self.backbone, self.precision, shown, *context)
        output, variance = output if isinstance(output, tuple) else (output, None)
        output = self._in_one_view(scaled, unit, output)
        prediction = Prediction(x, inner, output, self.parameterisation, variance)
        if self.data_std == 1:
            return replace(prediction, level=level)
        return Prediction(x, level, combine((self.data_std, prediction.x0)), "x0", variance)

    def _in_one_view(self, scaled: State, level: Level, output: State) -> State:
        """The output, of the state `scaled` to unit variance, with all fields in the view of the parameterisation."""
        if not self.views:
            return output
        found = fields(output)
        for name, view in self.views.items():
            x, said = fields(scaled)[name], found[name]
            if isinstance(view, Categories):
                said, view = view.expectation(x, level, said), "x0"
            found[name] = getattr(Prediction(x, level, said, view), self.parameterisation)
        return TensorDict(found, batch_size=scaled.shape[:1])


def log_snr_of(level: Level, batch: int, device: torch.device) -> Tensor:
    """The log-SNR of a level as networks are told it: float32 `[B]`."""
    log_snr = level.log_snr
    if not isinstance(log_snr, Tensor):  # filling, unlike copying a scalar, does not wait for the device
        log_snr = torch.full((batch,), log_snr, device=device)
    return log_snr.float()
