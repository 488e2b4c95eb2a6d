"""Changes the sampling rate of waveforms."""

from fractions import Fraction
from functools import lru_cache

from torch import Tensor
from torchaudio.transforms import Resample

_WIDTH, _ROLL_OFF, _BETA = 64, 0.95, 8.0
"""Zero crossings of the sinc on each side, its cutoff as a fraction of the lower Nyquist frequency, and the shape
parameter of its Kaiser window. The transition takes 4 % of the Nyquist frequency on each side of the cutoff."""

_LARGEST_TERM = 1000
"""Largest term of the ratio of two rates, which bounds the table of the filter."""


def resampled(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """Resample `[..., L]` from `rate` to `new_rate`, in Hz, with a windowed sinc.

    Tones up to 0.9 of the lower Nyquist frequency keep their level within 0.01 dB. Everything above the new Nyquist
    frequency is at least 80 dB lower afterwards, so nothing audible is folded back.

    The sinc is tabulated for every pair of samples within the common period of both rates. To keep that table small,
    the ratio of the rates is a fraction of two numbers up to 1,000. This is exact for pairs of common rates; for others
    it changes the pitch by less than one cent.
    """
    if rate == new_rate:
        return waveform
    if rate < new_rate:
        ratio = Fraction(rate, new_rate).limit_denominator(_LARGEST_TERM)
    else:
        ratio = 1 / Fraction(new_rate, rate).limit_denominator(_LARGEST_TERM)
    return waveform if ratio == 1 else _resampler(ratio.numerator, ratio.denominator)(waveform)


@lru_cache(maxsize=32)
def _resampler(rate: int, new_rate: int) -> Resample:
    return Resample(rate, new_rate, "sinc_interp_kaiser", _WIDTH, _ROLL_OFF, _BETA)
