"""HTK's mel scale of frequencies."""

import math


def mel(frequency: float) -> float:
    """2595 log10(1 + f / 700) of a frequency f in Hz."""
    return 2595 * math.log10(1 + frequency / 700)


def frequency_of(mels: float) -> float:
    """The frequency in Hz, the inverse of `mel`."""
    return 700 * 10 ** (mels / 2595) - 700
