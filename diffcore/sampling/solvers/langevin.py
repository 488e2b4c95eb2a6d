"""Langevin dynamics: annealed by itself, and as the corrector of a classifier-corrector sampler."""

import math

from diffcore.sampling.solvers.ancestral import ddpm
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.level import Level
from diffcore.states.state import State, combine


def langevin(corrections: int = 20, size: float = 0.05) -> Step:
    """Annealed Langevin dynamics: `corrections` steps at each level, then on to the next as it is.

    x <- x + e score + sqrt(2 e) z with e = size sigma^2. Song & Ermon 2019, algorithm 1, whose alpha_i = 2 e, carried
    to any scaling of the state: x / alpha stays when the level changes. The last step, to sigma = 0, gives x0
    (Jolicoeur-Martineau et al. 2020, section 3.1).

    Two errors widen what it draws. Steps of finite size leave a variance up to 1 / (1 - size / 2) too large, and the
    walk lags behind the falling noise: for wide data by d / (2 corrections size) of the data's variance, where d is the
    fall of log sigma^2 from level to level. So many levels, or many corrections, are wanted.
    """

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        if move.now.alpha > 0:
            x = _correct(evaluate, x, move, move.now, corrections, size)
        if move.next.sigma == 0 or move.now.alpha == 0:
            prediction = evaluate(x, move.now)
            return combine((move.next.alpha, prediction.x0), (move.next.sigma, prediction.eps))
        return combine((move.next.alpha / move.now.alpha, x))

    return step


def pc(corrections: int = 1, snr: float = 0.16) -> Step:
    """NoisyClassifier-corrector sampling: an ancestral step, then `corrections` Langevin steps at the level it reached.

    Song et al. 2021, algorithms 2 to 5. `snr` is their r, the ratio of the noise's norm to that of the score's part;
    their step size 2 (r |z| / |score|)^2 is taken with |score| = |z| / sigma, its value under the model, so that
    samples do not depend on the batch they are drawn in: e = 2 r^2 sigma^2.
    """
    predict = ddpm()

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        x = predict(evaluate, x, move)
        return _correct(evaluate, x, move, move.next, corrections, 2 * snr**2) if move.next.sigma > 0 else x

    return step


def _correct(evaluate: Evaluate, x: State, move: Move, level: Level, corrections: int, size: float) -> State:
    """Langevin steps at one level: x - size sigma eps + sqrt(2 size) sigma z."""
    for _ in range(corrections):
        eps = evaluate(x, level).eps
        x = combine((1.0, x), (-size * level.sigma, eps), (math.sqrt(2 * size) * level.sigma, move.noise()))
    return x
