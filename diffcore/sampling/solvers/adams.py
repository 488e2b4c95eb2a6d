"""Exponential Adams methods: the flow's linear part solved exactly, the denoiser's part by a polynomial."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from diffcore.denoising.denoiser import Prediction
from diffcore.names import Clock
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.level import Level
from diffcore.states.state import State, combine


@dataclass(frozen=True)
class _Passed:
    """A level that a trajectory has passed, what the denoiser said there, and the weights of the step from there."""

    half: Any
    """Half the log-SNR."""
    place: Any
    """Where polynomials take the value to be."""
    prediction: Prediction
    used: Sequence[Any]
    """Of the values that the step was made from, the newest first."""


def adams(
    order: int = 3,
    corrector: int = 4,
    clock: Clock = "alpha",
    view: Literal["x0", "eps"] = "x0",
    ending: int = 2,
    shifts: Sequence[Any] = (),
) -> Step:
    """Multistep of any `order`, one evaluation a step.

    With the half log-SNR l = log(alpha / sigma), the probability-flow ODE from t to s is solved by

        x_s = (sigma_s / sigma_t) x_t + alpha_s  int e^(l - l_s) x0(l) dl        (view `x0`)
        x_s = (alpha_s / alpha_t) x_t - sigma_s  int e^(l_s - l) eps(l) dl       (view `eps`)

    over l from l_t to l_s. The predicted x0 (or eps) is replaced by the polynomial through its last `order` values,
    whose integral is exact (`weights`). The polynomial is one in the `clock`:

    * `log-snr`: in l. In `x0` this is DPM-Solver++ of that order (Lu et al. 2022, appendix B), in `eps` DEIS with
      polynomials in log(sigma / alpha) (Zhang & Chen 2023, section 3.2).
    * `alpha`: in alpha / sqrt(alpha^2 + sigma^2). For data N(m, 1) the predicted x0 is linear in it along the flow, so
      order 2 is exact there with steps of any size; what remains to be followed is how data differ from that.

    The step before is done again once the denoiser has seen where it led, with the polynomial through `corrector`
    values, the new one among them: order + 1 of them raise the order by one. The new value serves both steps, so this
    costs no evaluation (UniPC: Zhao et al. 2023, section 3.1). 0 leaves the correction out.

    `shifts`, one for each level, move the places where the polynomials take their values to be, in half log-SNR; levels
    and steps stay. An x0 that is constant is still integrated exactly. It is a freedom that tuning uses.

    The step to sigma = 0 gives x0 at s = sigma / alpha = 0, by the polynomial in s^2 through the last `ending` values:
    1 takes the last as it is. Where the flow has a limit, x0 along it is even in s. The first steps are of lower order.
    """

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        now, then, past = move.now, move.next, move.history
        prediction = evaluate(x, now)
        if now.alpha == 0:  # there is no finite clock at zero SNR: the exact step for a constant x0
            return combine((then.alpha, prediction.x0), (then.sigma, prediction.eps))
        half, earlier = now.log_snr / 2, past[::-1]
        place = half + shifts[move.index] if shifts else half
        nodes = [place, *(passed.place for passed in earlier)]
        seen = [prediction, *(passed.prediction for passed in earlier)]
        if then.sigma == 0:
            return _extrapolated(nodes[:ending], seen)
        end = then.log_snr / 2
        scale, other, rate = _linear_part(view, now, then)
        used = [other * w for w in weights(nodes[:order], half, end, rate, clock)]
        total = used
        if corrector and past:
            # The corrected x_t differs from x_t by multiples of the same values, so the two steps become one sum.
            _, before, _ = _linear_part(view, earlier[0].prediction.level, now)
            better = [before * w for w in weights(nodes[:corrector], earlier[0].half, half, rate, clock)]
            change = [b - u for b, u in zip_longest(better, [0.0, *earlier[0].used], fillvalue=0.0)]
            total = [scale * c + u for c, u in zip_longest(change, used, fillvalue=0.0)]
        past.append(_Passed(half, place, prediction, used))
        del past[: -max(order, corrector - 1, ending - 1)]
        return combine((scale, x), *((w, getattr(p, view)) for w, p in zip(total, seen, strict=False)))

    return step


def _linear_part(view: str, now: Level, then: Level) -> tuple[Any, Any, float]:
    """What multiplies x and the integral in the step between two levels, and the rate of the integral's exponential."""
    if view == "x0":
        return then.sigma / now.sigma, then.alpha, 1.0
    return then.alpha / now.alpha, -then.sigma, -1.0


def _extrapolated(halves: Sequence[Any], seen: Sequence[Prediction]) -> State:
    """x0 at s = 0 by the polynomial in s^2 = e^(-2 l) through the values at the half log-SNRs `halves`."""
    squares = [torch.exp(-2 * half) if isinstance(half, Tensor) else math.exp(-2 * half) for half in halves]
    terms = []
    for j, (own, prediction) in enumerate(zip(squares, seen, strict=False)):
        others = (other for k, other in enumerate(squares) if k != j)
        terms.append((math.prod(other / (other - own) for other in others), prediction.x0))
    return combine(*terms)


def weights(nodes: Sequence[Any], start: Any, end: Any, rate: float, clock: Clock) -> Sequence[Any]:
    """w_j with int_start^end e^(rate (l - end)) p(l) dl = sum_j w_j p(nodes_j) for each polynomial p in the clock.

    `nodes`, `start` and `end` are half log-SNRs. By Gauss-Legendre quadrature, to rounding for steps of log-SNR up to
    30. Of floats, floats (remembered, as batches share their levels); of scalars that carry gradients, such scalars.
    """
    if isinstance(end, Tensor):
        abscissas, shares = (torch.from_numpy(values) for values in _LEGENDRE)
        return _quadrature([*nodes], start, end, rate, clock, abscissas, shares, torch.exp)
    return _remembered(tuple(nodes), start, end, rate, clock)


@lru_cache(maxsize=4096)
def _remembered(nodes: tuple[float, ...], start: float, end: float, rate: float, clock: Clock) -> tuple[float, ...]:
    found = _quadrature(nodes, start, end, rate, clock, *_LEGENDRE, numpy.exp)
    return tuple(float(weight) for weight in found)


_LEGENDRE = numpy.polynomial.legendre.leggauss(48)


def _quadrature(
    nodes: Sequence[Any], start: Any, end: Any, rate: float, clock: Clock, abscissas: Any, shares: Any, exp: Any
) -> list[Any]:
    """The weights, in the arithmetic of numpy or of torch."""
    at = end + (end - start) * (abscissas - 1) / 2
    kernel = exp(rate * (at - end)) * shares * (end - start) / 2
    if clock == "alpha":
        at, nodes = _one_minus_alpha(at, exp), [_one_minus_alpha(node, exp) for node in nodes]
    found = []
    for j, node in enumerate(nodes):
        value = kernel
        for k, other in enumerate(nodes):
            if k != j:
                value = value * ((at - other) / (node - other))
        found.append(value.sum())
    return found


def _one_minus_alpha(half: Any, exp: Any) -> Any:
    """1 - alpha with alpha^2 = 1 / (1 + e^(-2 l)), without cancellation: s^2 / (r (r + 1)) with r^2 = 1 + s^2."""
    square = exp(-2 * half)
    root = (1 + square) ** 0.5
    return square / (root * (root + 1))
