"""DDIM: the first-order exponential step, with an adjustable amount of fresh noise."""

import math

from diffcore.process.gaussian import posterior
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.state import State, combine


def ddim(eta: float = 0.0) -> Step:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c z, where c is `eta` times the posterior's standard deviation.

    Song, Meng & Ermon 2021, eq. 12 and 16. eta = 0 is Euler's method for the probability-flow ODE in
    sigma / alpha; eta = 1 has the noise of ancestral sampling.
    """

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        prediction = evaluate(x, move.now)
        fresh = eta * posterior(move.next, move.now).std if eta else 0.0
        kept = math.sqrt(max(move.next.sigma**2 - fresh**2, 0.0))
        terms = [(move.next.alpha, prediction.x0), (kept, prediction.eps)]
        if fresh > 0:
            terms.append((fresh, move.noise()))
        return combine(*terms)

    return step
