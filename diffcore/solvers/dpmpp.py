"""DPM-Solver++: exponential multistep methods in x0."""

import math

from diffcore.solvers.step import Evaluate, Move, Step
from diffcore.state import State


def dpmpp_2m() -> Step:
    """Second-order multistep. Lu et al. 2022 (DPM-Solver++), algorithm 2.

    With the half log-SNR l = lambda / 2, h = l_s - l_t and r = h_previous / h,

        D = x0_t + (x0_t - x0_previous) / (2 r)
        x_s = (sigma_s / sigma_t) x_t - alpha_s (e^(-h) - 1) D,

    which solves dx/dl exactly for an x0 that is linear in l, up to order h^3. The first step and the step to
    sigma = 0, where h is infinite, are of first order.
    """

    def step(evaluate: Evaluate, x: State, move: Move) -> State:
        prediction = evaluate(x, move.now)
        x0 = prediction.x0
        h = (move.then.log_snr - move.now.log_snr) / 2
        if move.past and math.isfinite(h):
            previous = move.past.pop()
            ratio = (move.now.log_snr - previous.level.log_snr) / 2 / h
            x0 = x0 + 1 / (2 * ratio) * (x0 - previous.x0)
        move.past[:] = [prediction]
        return move.then.sigma / move.now.sigma * x - move.then.alpha * math.expm1(-h) * x0

    return step
