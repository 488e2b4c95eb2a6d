"""Guidance: decorators that take a denoiser and return a denoiser.

The result has the signature of `Denoise`, so guidances can be nested, and every solver works with every guidance.
"""

from diffcore.sampling.guidance.auto import autoguidance
from diffcore.sampling.guidance.classifier_free import classifier_free, composed, composed_values
from diffcore.sampling.guidance.energy import LogWeight, energy
from diffcore.sampling.guidance.interval import interval, log_snr_interval
from diffcore.sampling.guidance.rescaled import rescale

__all__ = [
    "LogWeight",
    "autoguidance",
    "classifier_free",
    "composed",
    "composed_values",
    "energy",
    "interval",
    "log_snr_interval",
    "rescale",
]
