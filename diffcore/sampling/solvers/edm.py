"""Heun's method, and EDM's stochastic sampler around it."""

import math

from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.level import Level
from diffcore.states.state import State, combine


def heun() -> Step:
    """Heun's second-order method in y = x / alpha, s = sigma / alpha: two evaluations a step, one in the last.

    y' = y + (s' - s) (eps(y, s) + eps(y_euler, s')) / 2. Karras et al. 2022, algorithm 1.
    """
    return edm(churn=0.0)


def edm(churn: float = 0.4, low: float = 0.05, high: float = 50.0, inflation: float = 1.003) -> Step:
    """EDM's stochastic sampler: fresh noise raises the level, then Heun's step. Karras et al. 2022, algorithm 2.

    If s = sigma / alpha lies in [`low`, `high`], s is raised to (1 + churn) s by fresh noise, which is multiplied by
    `inflation`. `churn` is their gamma = S_churn / N, at most sqrt(2) - 1; `low`, `high` and `inflation` are their
    S_tmin, S_tmax and S_noise.
    """

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        now, end = move.now, move.next
        if churn and now.alpha > 0 and low <= now.sigma / now.alpha <= high:
            raised = Level(now.alpha, now.sigma * (1 + churn))
            added = math.sqrt(raised.sigma**2 - now.sigma**2)
            x, now = combine((1.0, x), (inflation * added, move.noise())), raised
        first = evaluate(x, now)
        euler = combine((end.alpha, first.x0), (end.sigma, first.eps))
        if end.sigma == 0 or now.alpha == 0:
            return euler
        # The mean of the two slopes: in x, half of the Euler step and half of a step along the second slope.
        second = evaluate(euler, end)
        fall = end.sigma - end.alpha * now.sigma / now.alpha
        return combine((end.alpha / now.alpha, x), (fall / 2, first.eps), (fall / 2, second.eps))

    return step
