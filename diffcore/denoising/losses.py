"""The losses of denoisers, and the weightings of the denoising loss.

A weighting is a function of the log-SNR that multiplies the squared error of x0. The squared errors of the other views
are multiples of it (eps: e^lambda, v: e^lambda + 1), so each objective is defined once, here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from diffcore.denoising.denoiser import Prediction, velocity
from diffcore.names import Weighting, require_name
from diffcore.process.variances import LogSnr, step_divergence
from diffcore.states.level import GIVEN_LOG_SNR, FieldLevels, Levels, by_field
from diffcore.states.spaces import Mask, Space, space_of
from diffcore.states.state import State, combine, fields, map_fields, named

WEIGHTINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "eps": torch.exp,
    "x0": torch.ones_like,
    "v": lambda log_snr: log_snr.exp() + 1,
    "min-snr": lambda log_snr: log_snr.exp().clamp(max=5.0),
    "sparse": lambda log_snr: (4 * log_snr.exp() + 0.125).clamp(max=4.0),
}
"""The weightings w(lambda) of the loss w(lambda) |x0_hat - x0|^2, by name.

* `eps`: e^lambda, the simple objective |eps_hat - eps|^2 of Ho et al. 2020, eq. 14.
* `x0`: 1.
* `v`: e^lambda + 1, the squared error of v (Salimans & Ho 2022, section 4, "SNR + 1"); for data of unit variance also
  the weighting of EDM.
* `min-snr`: min(e^lambda, 5), Hang et al. 2023, eq. 8, for every parameterisation of the network.
* `sparse`: min(4 e^lambda + 1/8, 4). Up to a factor, e^lambda + 1/32 is the weight of v for data with a variance of 32.
  It suits data most of whose values are equal, such as objects on an empty background: the others are several standard
  deviations away, so that noise hides them later. The bound suits networks that predict x0.
"""


def weighted_loss(
    prediction: Prediction,
    x0: State,
    noise: State,
    space: Space,
    weighting: Weighting = "eps",
    mask: Mask = None,
    field_weights: Mapping[str, float] = MappingProxyType({}),
) -> Tensor:
    """w(lambda) |x0_hat - x0|^2 per degree of freedom, `[B]`.

    * `prediction`: the prediction for x = alpha `x0` + sigma `noise`, at levels `[B]`.
    * `weighting`: the name of w in `WEIGHTINGS`.
    * `field_weights`: factors of the terms of fields, by name; those of others are 1.

    It is computed from the error of v, which is of order one at both ends: with a variance-preserving level,
    |x0_hat - x0|^2 = sigma^2 |v_hat - v|^2, so the factor is w(lambda) sigmoid(-lambda).

    With levels by field, the numerator is the sum over the fields, each with the weight of its own level; a field is
    given, and has the weight 0, where its log-SNR is `GIVEN_LOG_SNR` or more.
    """
    require_name(weighting, WEIGHTINGS, "weighting")
    error = _error(prediction, x0, noise, field_weights)
    freedoms = space.degrees_of_freedom(x0, mask).clamp(min=1)
    return _weighted_square(error, prediction.level, space, weighting, mask) / freedoms


def _error(prediction: Prediction, x0: State, noise: State, field_weights: Mapping[str, float]) -> State:
    """The error of v, in which each field is multiplied by the square root of its weight."""
    error = prediction.v - velocity(x0, noise, prediction.level)
    if not field_weights:
        return error
    return combine(({name: field_weights.get(name, 1.0) ** 0.5 for name in fields(error)}, error))


def _weighted_square(error: State, level: Levels, space: Space, weighting: Weighting, mask: Mask) -> Tensor:
    """w(lambda) sigmoid(-lambda) |error|^2, `[B]`, where `error` is that of v; the sum over fields with own levels."""
    if isinstance(level, FieldLevels):
        squares = []
        for name, value in fields(error).items():
            given = torch.as_tensor(level.of[name].log_snr, device=value.device) >= GIVEN_LOG_SNR
            square = _weighted_square(value, level.of[name], space_of(space, name), weighting, mask)
            squares.append(torch.where(given, 0.0, square))
        return torch.stack(squares).sum(0)
    squared = space.squared_norm(error, mask)
    log_snr = torch.as_tensor(level.log_snr, dtype=torch.float64, device=squared.device)
    weight = WEIGHTINGS[weighting](log_snr) * torch.sigmoid(-log_snr)
    return weight.to(squared.dtype) * squared


VARIANCE_STEPS = 1000
"""T: the number of steps of the chain for which variances are learned."""

VARIANCE_WEIGHT = 0.001
"""The weight of the variational bound in `hybrid_loss`."""


def variance_loss(
    prediction: Prediction, x0: State, noise: State, space: Space, clean: LogSnr, mask: Mask = None
) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats per degree of freedom, `[B]`, of the step to log-SNR `clean` `[B]`.

    p has the predicted variance and the predicted mean. No gradient flows through the mean, which is learned by the
    denoising loss alone (Nichol & Dhariwal 2021, section 3.1).
    """
    assert prediction.variance is not None
    error = map_fields(lambda a, b: (a - b).detach(), prediction.v, velocity(x0, noise, prediction.level))
    error = combine((by_field(lambda level: -level.sigma / level.total, prediction.level), error))
    fraction = space.factors(prediction.variance, mask)
    divergence = step_divergence(error, prediction.level.log_snr, clean, fraction, space, mask)
    return divergence / space.degrees_of_freedom(x0, mask).clamp(min=1)


def hybrid_loss(
    prediction: Prediction,
    x0: State,
    noise: State,
    space: Space,
    clean: LogSnr,
    weighting: Weighting = "eps",
    mask: Mask = None,
    field_weights: Mapping[str, float] = MappingProxyType({}),
) -> Tensor:
    """L_simple + 0.001 T KL, `[B]`: the loss of a network that learns variances. Nichol & Dhariwal 2021, eq. 16.

    `clean` `[B]` is the log-SNR at t - 1 / T (by field where levels are), so that T KL at a random t is an estimate of
    the whole variational bound without its two end terms, which do not depend on the variance. KL is in nats per degree
    of freedom.
    """
    simple = weighted_loss(prediction, x0, noise, space, weighting, mask, field_weights)
    return simple + VARIANCE_WEIGHT * VARIANCE_STEPS * variance_loss(prediction, x0, noise, space, clean, mask)


def field_losses(
    prediction: Prediction,
    x0: State,
    noise: State,
    space: Space,
    weighting: Weighting = "eps",
    mask: Mask = None,
    field_weights: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """The contribution of each field to `weighted_loss`, `[B]` by name; their sum is that loss."""
    error = _error(prediction, x0, noise, field_weights)
    freedoms = space.degrees_of_freedom(x0, mask).clamp(min=1)
    losses = {}
    for name in fields(error):
        only = {other: value if other == name else torch.zeros_like(value) for other, value in fields(error).items()}
        state = only[""] if isinstance(error, Tensor) else named(only)
        losses[name] = _weighted_square(state, prediction.level, space, weighting, mask) / freedoms
    return losses
