"""The variational bound on -log p(x0) for the chain of ancestral sampling, term by term."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.special import log_ndtr

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.process.gaussian import perturb
from diffcore.process.variances import step_divergence
from diffcore.states.level import FieldLevels, Level, Levels, is_clean
from diffcore.states.noise import Draws
from diffcore.states.spaces import Mask, Space, space_of
from diffcore.states.state import State, combine, fields, first_field, map_fields


@dataclass(frozen=True)
class Bins:
    """The bins of discrete data, whose values are `low`, `low` + `width`, ..., `high`.

    Each value is the middle of its bin; the outer bins reach to infinity. For bytes scaled to [-1, 1] use
    `Bins(2 / 255, -1, 1)`. Each may also be a tensor that is broadcast to the state, such as `[1, C, 1, 1]`.
    """

    width: float | Tensor
    low: float | Tensor
    high: float | Tensor

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Width, low and high in the dtype and on the device of `x`."""
        width, low, high = (
            torch.as_tensor(value, dtype=x.dtype, device=x.device) for value in (self.width, self.low, self.high)
        )
        return width, low, high

    def nearest(self, x: State) -> State:
        """The middles of the bins that are nearest to the entries of `x`."""
        return map_fields(self._nearest, x)

    def _nearest(self, x: Tensor) -> Tensor:
        width, low, high = self.beside(x)
        return low + ((x.clamp(low, high) - low) / width).round() * width


@dataclass(frozen=True)
class Bound:
    """The variational bound: -log p(x0) <= `total`.

    * `terms`: `[steps + 1, B]` nats, float64: L_T, then a term for each step, then L_0.
    """

    terms: Tensor

    @property
    def total(self) -> Tensor:
        """The bound, `[B]` nats; `bits_per_dimension` takes its negative as the log-likelihood."""
        return self.terms.sum(0)


@torch.no_grad()
def variational_bound(
    denoise: Denoise,
    x0: State,
    space: Space,
    levels: Sequence[Levels],
    *,
    conditions: Conditions | None = None,
    mask: Mask = None,
    variance: float = 0.0,
    bins: Bins | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
) -> Bound:
    """The bound for the chain `levels`, from the noisiest to the cleanest, estimated with one draw of noise a term.

        L_T     = KL(q(x_T | x_0) || N(0, sigma_T^2)) = SNR_T |x_0|^2 / 2
        L_{t-1} = KL(q(x_s | x_t, x_0) || p(x_s | x_t))
        L_0     = -log p(x_0 | x_1)

    Sohl-Dickstein et al. 2015, eq. 9-14; Ho et al. 2020, eq. 5.

    * `levels`: with or without the clean end, of the whole state or by field. Fields that are clean in all levels are
      given: the bound is then that of the others given them. The steps between them are those of `ddpm(variance)`.
    * `variance`: the fraction between the bounds of the variance. If the prediction has a learned variance, that is
      used instead. The last step draws p(x_0 | x_1) = N(x0_hat, s^2) with the upper bound
      s^2 = sigma^2 / (alpha^2 + sigma^2) in any case, because its lower bound is zero.
    * `bins`: if given, p(x_0 | x_1) is the probability of the bin of x_0 (Ho et al. 2020, eq. 13); otherwise it is a
      density per unit of volume of the space.
    * `seed`, `indices`: sample i draws the noise of `seed` and `indices[i]` (`range(B)` if None).

    Raises `ValueError` if no level has noise, or if `bins` are given and entries of the space depend on each other.
    """
    noisy = [level for level in levels if not is_clean(level)]
    if not noisy:
        raise ValueError("the variational bound needs at least one level with noise")
    draws = Draws.of(seed, range(x0.shape[0]) if indices is None else indices, first_field(x0).device)
    x0 = space.project(x0, mask)

    def predict(number: int) -> Prediction:
        level = noisy[number]
        x = perturb(x0, space.noise(draws.normal(("bound", number), x0), mask), level)
        prediction = denoise(x, level, conditions, mask)
        return replace(prediction, output=space.project(prediction.output, mask))

    terms = [_summed(_end_divergence, noisy[0], space, mask, x0)]
    for number, (now, cleaner) in enumerate(pairwise(noisy)):
        prediction = predict(number)
        error, learned = combine((1.0, prediction.x0), (-1.0, x0)), prediction.variance
        fraction = variance if learned is None else space.factors(learned, mask)
        terms.append(step_divergence(error, now.log_snr, cleaner.log_snr, fraction, space, mask).double())
    if bins is not None:
        _require_free(space)
    last = _last_density if bins is None else partial(_last_probability, bins)
    terms.append(_summed(last, noisy[-1], space, mask, x0, predict(len(noisy) - 1).x0))
    return Bound(torch.stack(terms))


def _summed(term: Callable[..., Tensor], level: Levels, space: Space, mask: Mask, *states: State) -> Tensor:
    """term(level, space, mask, *states) of the whole state, or its sum over the noisy fields, with their own levels."""
    if not isinstance(level, FieldLevels):
        return term(level, space, mask, *states)
    each = [fields(state) for state in states]
    noisy = [name for name in each[0] if not is_clean(level.of[name])]
    return torch.stack(
        [term(level.of[name], space_of(space, name), mask, *(state[name] for state in each)) for name in noisy]
    ).sum(0)


def _end_divergence(level: Level, space: Space, mask: Mask, x0: State) -> Tensor:
    """L_T."""
    return math.exp(level.log_snr) * space.squared_norm(x0, mask).double() / 2


def _last_density(level: Level, space: Space, mask: Mask, x0: State, estimate: State) -> Tensor:
    """L_0 as a density."""
    std = level.sigma / level.total
    error = space.squared_norm(combine((1.0, estimate), (-1.0, x0)), mask).double()
    freedoms = space.degrees_of_freedom(x0, mask).double()
    return error / (2 * std**2) + freedoms / 2 * math.log(2 * math.pi * std**2)


def _last_probability(bins: Bins, level: Level, space: Space, mask: Mask, x0: State, estimate: State) -> Tensor:
    """L_0 as the probability of the bins."""
    std = level.sigma / level.total
    log_probabilities = map_fields(lambda x, mean: log_bin_probability(x, mean, std, bins), x0, estimate)
    return -space.total(log_probabilities, mask).double()


def log_bin_probability(x: Tensor, mean: Tensor, std: float, bins: Bins) -> Tensor:
    """The logarithm of the probability that N(mean, std^2) assigns to the bin of each `x`, which is its middle.

    Ho et al. 2020, eq. 13. A bin above the mean is mirrored below it, where the difference of the two values of the
    distribution function does not cancel; it is computed from their logarithms.
    """
    width, least, most = bins.beside(x)
    half = width / 2
    lower = torch.where(x < least + half, -torch.inf, (x - half - mean) / std)
    upper = torch.where(x > most - half, torch.inf, (x + half - mean) / std)
    mirrored = lower > 0
    lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    high, low = log_ndtr(upper), log_ndtr(lower)
    return high + torch.log1p(-torch.exp(low - high))


def _require_free(space: Space) -> None:
    """Raise `ValueError` if entries of the space depend on each other, so that it is not a product of bins."""
    point = space.noise(Draws.of(0, [0]).normal("point", space.empty(1)))
    if any((field != 0).any() for field in fields(combine((1.0, space.factors(point)), (-1.0, point))).values()):
        raise ValueError(f"bins need a space whose entries do not depend on each other, not {space}")
