"""The forward process: q(x_t | x_0), the Markov step between two levels, and the posterior.

All are Gaussian, with mean a x (+ b x_0) and standard deviation `std`. `perturb` takes levels of floats or of tensors
`[B]`, for the whole state or by field; the others are for sampling and take two levels of floats, of the whole state or
of one field. The noisier level may have alpha = 0. Between equal levels, also clean ones, the state stays the same.
"""

import math
from typing import NamedTuple

from diffcore.states.level import FieldLevels, Level, Levels
from diffcore.states.state import State, combine, per_sample


def perturb(x0: State, noise: State, level: Levels) -> State:
    """x_t = alpha x_0 + sigma eps: a draw of q(x_t | x_0), by field where levels are. Ho et al. 2020, eq. 4."""
    if isinstance(level, FieldLevels):
        return combine((level.alpha, x0), (level.sigma, noise))
    return per_sample(level.alpha, x0) * x0 + per_sample(level.sigma, x0) * noise


class Transition(NamedTuple):
    """q(x_t | x_s) = N(`scale` x_s, `std`^2), where s is cleaner than t."""

    scale: float
    std: float


def transition(clean: Level, noisy: Level) -> Transition:
    """q(x_t | x_s), the Markov step from the level `clean` (s) to `noisy` (t).

    scale = alpha_t / alpha_s, std^2 = sigma_t^2 - scale^2 sigma_s^2. Kingma et al. 2021, appendix A.1. The variance is
    computed as sigma_t^2 (1 - SNR_t / SNR_s) with expm1, to avoid cancellation.
    """
    scale = noisy.alpha / clean.alpha
    return Transition(scale, noisy.sigma * math.sqrt(_gain(clean, noisy)))


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(`of_x` x_t + `of_x0` x_0, `std`^2), where s is cleaner than t."""

    of_x: float
    of_x0: float
    std: float


def posterior(clean: Level, noisy: Level) -> Posterior:
    """q(x_s | x_t, x_0), the state at the level `clean` (s) given the state at `noisy` (t) and the data.

    of_x = (alpha_t / alpha_s) sigma_s^2 / sigma_t^2, of_x0 = alpha_s (1 - SNR_t / SNR_s),
    std^2 = sigma_s^2 (1 - SNR_t / SNR_s). Ho et al. 2020, eq. 6-7, for any two levels. If alpha_t = 0, it is
    q(x_s | x_0).
    """
    if clean == noisy:
        return Posterior(1.0, 0.0, 0.0)
    gain = _gain(clean, noisy)
    of_x = noisy.alpha / clean.alpha * (clean.sigma / noisy.sigma) ** 2
    return Posterior(of_x, clean.alpha * gain, clean.sigma * math.sqrt(gain))


def _gain(clean: Level, noisy: Level) -> float:
    """1 - SNR_t / SNR_s, the fraction of the signal-to-noise ratio at s that the step from t to s adds."""
    if clean == noisy:
        return 0.0
    return -math.expm1(noisy.log_snr - clean.log_snr)
