"""DPM-Solver++(2M), deterministic or with fresh noise."""

import math

from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.state import State, combine


def dpmpp_2m(noise: float = 0.0) -> Step:
    """DPM-Solver++(2M), a second-order multistep method; with `noise`, its SDE version. One evaluation a step.

    Lu et al. 2022 (DPM-Solver++), algorithm 2 and, with noise, section 4.3 and appendix.

    With the half log-SNR l = lambda / 2, h = l_s - l_t, r = h_previous / h and n = `noise`,

        D = x0_t + (x0_t - x0_previous) / (2 r)
        x_s = (sigma_s / sigma_t) e^(-n^2 h) x_t + alpha_s (1 - e^(-(1 + n^2) h)) D + sigma_s sqrt(1 - e^(-2 n^2 h)) z.

    n = 0 solves the probability-flow ODE and n = 1 the reverse SDE; both are exact if the predicted x0 is constant. The
    first step and the step to sigma = 0, where h is infinite, are of first order.
    """
    strength = noise**2

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        now, end = move.now, move.next
        prediction = evaluate(x, now)
        h = (end.log_snr - now.log_snr) / 2
        gain = -end.alpha * math.expm1(-(1 + strength) * h)
        scale = end.sigma / now.sigma * (math.exp(-strength * h) if strength else 1.0)
        slope = 0.0
        if move.history and math.isfinite(h):
            previous = move.history[-1]
            slope = h / (now.log_snr - previous.level.log_snr)  # 1 / (2 r)
        terms = [(scale, x), (gain * (1 + slope), prediction.x0)]
        if slope:
            terms.append((-gain * slope, previous.x0))
        if strength and end.sigma > 0:
            terms.append((end.sigma * math.sqrt(-math.expm1(-2 * strength * h)), move.noise()))
        move.history[:] = [prediction]
        return combine(*terms)

    return step
