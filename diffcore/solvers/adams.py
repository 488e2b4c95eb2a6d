"""Exponential Adams methods: the flow's linear part solved exactly, the denoiser's part by a polynomial."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from diffcore.denoiser import Prediction
from diffcore.levels import Level
from diffcore.solvers.step import Evaluate, Move, Step
from diffcore.state import State, combine

Clock = Literal["alpha", "log-snr"]


@dataclass(frozen=True)
class _Point:
    """A level that a trajectory has passed: half its log-SNR, the state there, and what the denoiser said."""

    half: Any
    level: Level
    x: State
    prediction: Prediction


def adams(
    order: int = 3,
    corrected: bool = True,
    clock: Clock = "alpha",
    view: Literal["x0", "eps"] = "x0",
    ending: int = 2,
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

    With `corrected`, the step before is done again once the denoiser has seen where it led, with that value as one
    more point of the polynomial, which raises the order by one; the new value serves both, so this costs no evaluation
    (UniPC: Zhao et al. 2023, section 3.1).

    The step to sigma = 0 gives x0 at s = sigma / alpha = 0, by the polynomial in s^2 through the last `ending` values:
    1 takes the last as it is. Where the flow has a limit, x0 along it is even in s. The first steps are of lower order.
    """

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        prediction = evaluate(x, move.now)
        half = move.now.log_snr / 2
        if move.now.alpha == 0:  # there is no finite clock at zero SNR: the exact step for a constant x0
            return combine((move.then.alpha, prediction.x0), (move.then.sigma, prediction.eps))
        past: list[_Point] = move.past
        if corrected and past:
            x = advance(past[-1], move.now, [_Point(half, move.now, x, prediction), *reversed(past[-order:])])
        past.append(_Point(half, move.now, x, prediction))
        del past[: -max(order, ending)]
        latest = past[::-1]
        if move.then.sigma == 0:
            return _extrapolated(latest[:ending])
        return advance(latest[0], move.then, latest[:order])

    def advance(start: _Point, end: Level, points: Sequence[_Point]) -> State:
        """The step from `start` to `end` with the polynomial through `points`."""
        half = end.log_snr / 2
        nodes = tuple(point.half for point in points)
        if view == "x0":
            scale, other, rate = end.sigma / start.level.sigma, end.alpha, 1.0
        else:
            scale, other, rate = end.alpha / start.level.alpha, -end.sigma, -1.0
        found = weights(nodes, start.half, half, rate, clock)
        values = [getattr(point.prediction, view) for point in points]
        return combine((scale, start.x), *((other * w, value) for w, value in zip(found, values, strict=True)))

    return step


def _extrapolated(points: Sequence[_Point]) -> State:
    """x0 at s = 0 by the polynomial in s^2 = (sigma / alpha)^2 through `points`."""
    squares = [(point.level.sigma / point.level.alpha) ** 2 for point in points]
    terms = []
    for j, own in enumerate(squares):
        others = (other for k, other in enumerate(squares) if k != j)
        terms.append((math.prod(other / (other - own) for other in others), points[j].prediction.x0))
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
