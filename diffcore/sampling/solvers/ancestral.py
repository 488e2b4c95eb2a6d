"""DDPM: ancestral sampling."""

from torch import Tensor

from diffcore.process.gaussian import posterior, transition
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.state import State, combine, map_fields


def ddpm(variance: float = 0.0) -> Step:
    """A draw of q(x_s | x_t, x0_hat), with a choice of the variance. Ho et al. 2020, algorithm 2 and eq. 6-7.

    * `variance` = 0: the standard deviation of the posterior, optimal for a single data point.
    * `variance` = 1: that of the forward step, sqrt(beta), optimal for unit Gaussian data; measured on the
      unit-variance state x / sqrt(alpha^2 + sigma^2), so that the scaling of the schedule has no effect.
    * between: interpolated in the logarithm, as in Nichol & Dhariwal 2021, eq. 15.

    If the prediction has a learned variance, it replaces `variance`, element by element. The last step, to sigma = 0,
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
