"""DDPM: ancestral sampling."""

from diffcore.process import posterior, transition
from diffcore.solvers.step import Evaluate, Move, Step
from diffcore.state import State


def ddpm(variance: float = 0.0) -> Step:
    """A draw of q(x_s | x_t, x0_hat), with either variance. Ho et al. 2020, algorithm 2 and eq. 6-7.

    `variance` = 0 takes the posterior's std (right for a single data point), 1 takes that of the forward step,
    sqrt(beta) (right for unit Gaussian data), measured on the unit-variance state x / sqrt(alpha^2 + sigma^2), so that
    a schedule's scaling changes nothing; between, the two are interpolated in log, as Nichol & Dhariwal 2021, eq. 15,
    do. The last step, to sigma = 0, adds no noise.
    """

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        mean = posterior(move.then, move.now)
        x = mean.of_x * x + mean.of_x0 * evaluate(x, move.now).x0
        if mean.std == 0:
            return x
        upper = move.then.total / move.now.total * transition(move.then, move.now).std
        std = mean.std ** (1 - variance) * upper**variance
        return x + std * move.noise()

    return step
