"""Euler's method for the probability-flow ODE, and the Euler-Maruyama method for the reverse SDE."""

import math

from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.state import State, combine


def euler(noise: float = 0.0) -> Step:
    """One Euler(-Maruyama) step in y = x / alpha, s = sigma / alpha.

    The reverse processes that have the marginals of the forward process (Song et al. 2021, eq. 6 and 13; Karras et al.
    2022, eq. 6) are, for decreasing s and with n = `noise`,

        dy = (1 + n^2) eps ds + n sqrt(2 s |ds|) z.

    n = 0 is the ODE, where the step is that of DDIM; n = 1 is the reverse SDE. The last step, to s = 0, adds no noise
    and returns x0.
    """

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        prediction = evaluate(x, move.now)
        if move.next.sigma == 0 or noise == 0:
            return combine((move.next.alpha, prediction.x0), (move.next.sigma, prediction.eps))
        alpha = move.next.alpha
        s, s_then = move.now.sigma / move.now.alpha, move.next.sigma / alpha
        fall = s - s_then
        return combine(
            (alpha / move.now.alpha, x),
            (-alpha * (1 + noise**2) * fall, prediction.eps),
            (alpha * noise * math.sqrt(2 * s * fall), move.noise()),
        )

    return step
