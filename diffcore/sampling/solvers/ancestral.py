"""DDPM: ancestral sampling."""

from torch import Tensor

from diffcore.process.gaussian import posterior, transition
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.state import State, combine, map_fields


def ddpm(variance: float = 0.0) -> Step:
    """A draw of q(x_s | x_t, x0_hat), with either variance. Ho et al. 2020, algorithm 2 and eq. 6-7.

    `variance` = 0 takes the posterior's std (right for a single data point), 1 takes that of the forward step,
    sqrt(beta) (right for unit Gaussian data), measured on the unit-variance state x / sqrt(alpha^2 + sigma^2), so that
    a schedule's scaling changes nothing; between, the two are interpolated in log, as Nichol & Dhariwal 2021, eq. 15,
    do. A prediction with variances of its own is taken at its word, element by element. The last step, to sigma = 0,
    adds no noise.
    """

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        mean = posterior(move.next, move.now)
        prediction = evaluate(x, move.now)
        x = combine((mean.of_x, x), (mean.of_x0, prediction.x0))
        if mean.std == 0:
            return x
        upper = move.next.total / move.now.total * transition(move.next, move.now).std
        if prediction.variance is None:
            return combine((1.0, x), (mean.std ** (1 - variance) * upper**variance, move.noise()))

        def noisier(field: Tensor, fraction: Tensor, noise: Tensor) -> Tensor:
            return field + mean.std * (upper / mean.std) ** fraction * noise

        return map_fields(noisier, x, prediction.variance, move.noise())

    return step
