"""Exponential Adams methods: the linear part of the flow is solved exactly, the denoiser's part by a polynomial."""

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
from diffcore.names import Clock, require_name
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.level import Level
from diffcore.states.state import State, combine


@dataclass(frozen=True)
class _Node:
    """An earlier level of the trajectory, the prediction there, and the weights of the step that left it."""

    half: Any
    """Half the log-SNR of the level."""
    place: Any
    """The half log-SNR at which the polynomials have the prediction as their value: `half`, or shifted from it."""
    prediction: Prediction
    weights: Sequence[Any]
    """The weights of the predictions in that step, newest first."""


def adams(
    order: int = 3,
    corrector: int = 4,
    clock: Clock = "alpha",
    view: Literal["x0", "eps"] = "x0",
    ending: int = 2,
    shifts: Sequence[Any] = (),
) -> Step:
    """Exponential Adams multistep method of any `order`, with one evaluation a step.

    With the half log-SNR l = log(alpha / sigma), the solution of the probability-flow ODE from t to s is

        x_s = (sigma_s / sigma_t) x_t + alpha_s  int e^(l - l_s) x0(l) dl        (view `x0`)
        x_s = (alpha_s / alpha_t) x_t - sigma_s  int e^(l_s - l) eps(l) dl       (view `eps`)

    with l from l_t to l_s. The predicted x0 (or eps) is replaced by the polynomial through its last `order` values,
    which is integrated exactly (`weights`). The first steps, with fewer values, are of lower order.

    * `clock`: the variable of the polynomial.
        * "log-snr": l. With the view "x0" this is DPM-Solver++ of that order (Lu et al. 2022, appendix B), with "eps"
          DEIS with polynomials in log(sigma / alpha) (Zhang & Chen 2023, section 3.2).
        * "alpha": alpha / sqrt(alpha^2 + sigma^2). For data N(m, 1), the predicted x0 along the flow is linear in it,
          so that order 2 is exact with steps of any size.
    * `corrector`: after the evaluation at the end of a step, the step is corrected with the polynomial through this
      many values, including the new one; order + 1 values raise the order by one. The correction is merged into the
      next step and needs no further evaluation (UniPC: Zhao et al. 2023, section 3.1). 0: no correction.
    * `shifts`: one number for each level, in half log-SNR. The polynomials have their values at the levels moved by
      the shifts; the levels and the steps themselves do not change. A constant x0 is still integrated exactly.
      `diffcore.sampling.grid_fitting` optimises them.
    * `ending`: the step to sigma = 0 returns x0 at s = sigma / alpha = 0, from the polynomial in s^2 through this many
      last values; 1 returns the last prediction. (If the flow has a limit, x0 along the flow is an even function of s.)
    """
    require_name(clock, Clock, "clock")
    require_name(view, ("x0", "eps"), "view")

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        now, end, history = move.now, move.next, move.history
        prediction = evaluate(x, now)
        if now.alpha == 0:  # both clocks are infinite or singular at zero SNR: the exact step for a constant x0
            return combine((end.alpha, prediction.x0), (end.sigma, prediction.eps))
        half, earlier = now.log_snr / 2, history[::-1]
        place = half + shifts[move.index] if shifts else half
        places = [place, *(node.place for node in earlier)]
        predictions = [prediction, *(node.prediction for node in earlier)]
        if end.sigma == 0:
            return _extrapolated(places[:ending], predictions)
        scale, factor, rate = _linear_part(view, now, end)
        predictor = [factor * w for w in weights(places[:order], half, end.log_snr / 2, rate, clock)]
        total = predictor
        if corrector and earlier:
            # The corrected x_t differs from x_t by multiples of the same values, so the two steps become one sum.
            last = earlier[0]
            _, factor, _ = _linear_part(view, last.prediction.level, now)
            corrected = [factor * w for w in weights(places[:corrector], last.half, half, rate, clock)]
            change = [new - old for new, old in zip_longest(corrected, [0.0, *last.weights], fillvalue=0.0)]
            total = [scale * c + w for c, w in zip_longest(change, predictor, fillvalue=0.0)]
        history.append(_Node(half, place, prediction, predictor))
        del history[: -max(order, corrector - 1, ending - 1)]
        return combine((scale, x), *((w, getattr(p, view)) for w, p in zip(total, predictions, strict=False)))

    return step


def _linear_part(view: str, now: Level, end: Level) -> tuple[Any, Any, float]:
    """The factors of x and of the integral in a step, and the rate of the exponential in the integral."""
    if view == "x0":
        return end.sigma / now.sigma, end.alpha, 1.0
    return end.alpha / now.alpha, -end.sigma, -1.0


def _extrapolated(halves: Sequence[Any], predictions: Sequence[Prediction]) -> State:
    """x0 at s = 0 by the polynomial in s^2 = e^(-2 l) through the values at the half log-SNRs `halves`."""
    squares = [torch.exp(-2 * half) if isinstance(half, Tensor) else math.exp(-2 * half) for half in halves]
    terms = []
    for j, (own, prediction) in enumerate(zip(squares, predictions, strict=False)):
        others = (other for k, other in enumerate(squares) if k != j)
        terms.append((math.prod(other / (other - own) for other in others), prediction.x0))
    return combine(*terms)


def weights(nodes: Sequence[Any], start: Any, end: Any, rate: float, clock: Clock) -> Sequence[Any]:
    """w_j with int_start^end e^(rate (l - end)) p(l) dl = sum_j w_j p(nodes_j) for each polynomial p in the clock.

    `nodes`, `start` and `end` are half log-SNRs: floats, or scalar tensors that carry gradients; the weights have the
    same type. Computed by Gauss-Legendre quadrature, exactly up to rounding for steps of log-SNR up to 30. Results for
    floats are cached, as all batches have the same levels.
    """
    if isinstance(end, Tensor):
        abscissas, coefficients = (torch.from_numpy(values) for values in _LEGENDRE)
        return _quadrature([*nodes], start, end, rate, clock, abscissas, coefficients, torch.exp)
    return _cached_weights(tuple(nodes), start, end, rate, clock)


@lru_cache(maxsize=4096)
def _cached_weights(nodes: tuple[float, ...], start: float, end: float, rate: float, clock: Clock) -> tuple[float, ...]:
    return tuple(float(weight) for weight in _quadrature(nodes, start, end, rate, clock, *_LEGENDRE, numpy.exp))


_LEGENDRE = numpy.polynomial.legendre.leggauss(48)


def _quadrature(
    nodes: Sequence[Any], start: Any, end: Any, rate: float, clock: Clock, abscissas: Any, coefficients: Any, exp: Any
) -> list[Any]:
    """The weights, in the arithmetic of numpy or of torch."""
    at = end + (end - start) * (abscissas - 1) / 2
    kernel = exp(rate * (at - end)) * coefficients * (end - start) / 2
    if clock == "alpha":
        at, nodes = _one_minus_alpha(at, exp), [_one_minus_alpha(node, exp) for node in nodes]
    result = []
    for j, node in enumerate(nodes):
        value = kernel
        for k, other in enumerate(nodes):
            if k != j:
                value = value * ((at - other) / (node - other))
        result.append(value.sum())
    return result


def _one_minus_alpha(half: Any, exp: Any) -> Any:
    """1 - alpha with alpha^2 = 1 / (1 + e^(-2 l)), without cancellation: s^2 / (r (r + 1)) with r^2 = 1 + s^2."""
    square = exp(-2 * half)
    root = (1 + square) ** 0.5
    return square / (root * (root + 1))
