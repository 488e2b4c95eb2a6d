"""Noise schedules: log-SNR of a time, its inverse, and the scales alpha, sigma of a log-SNR.

Time runs from 0 (data) to 1 (noise). A schedule does two separable things: `log_snr` says how much of the
time is spent at which noise level, `level` says how the state is scaled there. All of it is computed in
float64; lambda stands for the log-SNR, log(alpha^2 / sigma^2).
"""

from diffcore.schedules.betas import Betas, ddpm, iddpm_cosine
from diffcore.schedules.cosine import Cosine
from diffcore.schedules.distributions import Laplace, LogNormal
from diffcore.schedules.geometric import Geometric
from diffcore.schedules.linear import LinearBeta, SubVariancePreserving
from diffcore.schedules.rectified import Rectified
from diffcore.schedules.schedule import Schedule, VariancePreserving, variance_exploding, variance_preserving
from diffcore.schedules.sigmoid import Sigmoid
from diffcore.schedules.zero_terminal import ZeroTerminal

__all__ = [
    "Betas",
    "Cosine",
    "Geometric",
    "Laplace",
    "LinearBeta",
    "LogNormal",
    "Rectified",
    "Schedule",
    "Sigmoid",
    "SubVariancePreserving",
    "VariancePreserving",
    "ZeroTerminal",
    "ddpm",
    "iddpm_cosine",
    "variance_exploding",
    "variance_preserving",
]
