"""Langevin dynamics: annealed Langevin sampling, and the corrector of predictor-corrector sampling."""

import math

from diffcore.sampling.solvers.ancestral import ddpm
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.level import Level
from diffcore.states.state import State, combine


def langevin(corrections: int = 20, size: float = 0.05) -> Step:
    """Annealed Langevin dynamics: `corrections` Langevin steps at each level, then the next level.

        x <- x + e score + sqrt(2 e) z,   e = size sigma^2

    Song & Ermon 2019, algorithm 1 (their alpha_i = 2 e), for any scaling of the state: x / alpha stays the same when
    the level changes. The last step, to sigma = 0, returns x0 (Jolicoeur-Martineau et al. 2020, section 3.1).

    Two errors make the variance of the samples too large. Steps of finite size multiply it by up to
    1 / (1 - size / 2). And the samples lag behind the decreasing noise: for data of large variance, their variance is
    too large by d / (2 corrections size) of that of the data, where d is the decrease of log sigma^2 from level to
    level. Both become small with many levels or many corrections.
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
    """Predictor-corrector sampling: an ancestral step, then `corrections` Langevin steps at the level it reached.

    Song et al. 2021, algorithms 2 to 5. Their step size is e = 2 (r |z| / |score|)^2, where r = `snr` is the ratio of
    the norms of the score's and the noise's part of a Langevin step. Here |score| is replaced by |z| / sigma, its
    value under the model, so that a sample does not depend on the batch in which it is drawn: e = 2 r^2 sigma^2.
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
