"""Fourier features of numbers."""

from torch import Tensor


def octave_waves(x: Tensor, octaves: int) -> list[Tensor]:
    """sin(2^k x) and cos(2^k x) for k = 0 to `octaves` - 1, one after another, each of the shape of x.

    They let later layers learn high-frequency functions of x (Tancik et al. 2020, Fourier features).
    """
    angles = [x * 2.0**octave for octave in range(octaves)]
    return [wave for angle in angles for wave in (angle.sin(), angle.cos())]
