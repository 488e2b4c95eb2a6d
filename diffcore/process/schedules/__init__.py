"""Noise schedules: the log-SNR at a time, its inverse, and the scales alpha and sigma at a log-SNR.

Time runs from 0 (data) to 1 (noise). A schedule has two independent parts: `log_snr` decides how much of the time is
spent at which noise level, and `level` how the state is scaled there. Both are computed in float64; lambda stands for
the log-SNR, log(alpha^2 / sigma^2).
"""

from diffcore.process.schedules.betas import Betas, ddpm, iddpm_cosine
from diffcore.process.schedules.by_field import ByField
from diffcore.process.schedules.cosine import Cosine
from diffcore.process.schedules.distributions import Laplace, LogNormal
from diffcore.process.schedules.exploding import Exploding
from diffcore.process.schedules.linear import LinearBeta, SubVariancePreserving
from diffcore.process.schedules.rectified import Rectified
from diffcore.process.schedules.schedule import Schedule, VariancePreserving, variance_exploding, variance_preserving
from diffcore.process.schedules.sigmoid import Sigmoid
from diffcore.process.schedules.uniform import Uniform
from diffcore.process.schedules.until import Until, ending_at, last_level
from diffcore.process.schedules.zero_terminal import ZeroTerminal

__all__ = [
    "Betas",
    "ByField",
    "Cosine",
    "Exploding",
    "Laplace",
    "LinearBeta",
    "LogNormal",
    "Rectified",
    "Schedule",
    "Sigmoid",
    "SubVariancePreserving",
    "Uniform",
    "Until",
    "VariancePreserving",
    "ZeroTerminal",
    "ddpm",
    "ending_at",
    "iddpm_cosine",
    "last_level",
    "variance_exploding",
    "variance_preserving",
]
