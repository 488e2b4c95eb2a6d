"""How long sounds last, what is left at their end, whether they reach full scale; and what the codec does to them."""

import math

import pytest
import torch

from diffcore_audio.evaluation.levels import Levels, decay, decay_errors, level_metrics
from diffcore_audio.signals.distances import stft_distance

RATE = 16000


def falling(tau, seconds=1.0, start=0.0, rate=RATE):
    """White noise whose amplitude falls as e^(-t / tau) from `start` on."""
    time = torch.arange(round(seconds * rate)) / rate - start
    noise = torch.randn(8, 1, len(time), generator=torch.Generator().manual_seed(0))
    return 0.1 * noise.sign() * torch.exp(-time / tau) * (time >= 0)


@pytest.mark.parametrize(("tau", "start"), [(0.02, 0.0), (0.1, 0.0), (0.1, 0.3)])
def test_the_decay_of_an_exponential_is_its_time_constant_times_ln_100(tau, start):
    found = decay(falling(tau, start=start), RATE)
    torch.testing.assert_close(found, torch.full_like(found, tau * math.log(100)), atol=0.008, rtol=0)
    assert decay(falling(tau, start=start) * 1e-3, RATE).tolist() == found.tolist()


def test_a_sound_that_is_cut_lasts_until_its_end_and_one_with_an_echo_until_the_echo_has_gone():
    assert decay(falling(10.0), RATE).min() > 0.9
    echo = falling(0.02)
    echo[..., 8000:8160] = 0.002  # at -34 dB of the peak
    assert decay(echo, RATE).tolist() == pytest.approx([0.505] * 8, abs=0.012)


def test_levels_are_those_of_the_waveform():
    waves = torch.zeros(3, 2, 8000)
    waves[0] = 0.1
    waves[1, :, :6400], waves[1, :, 6400:] = 1.0, 1e-3
    found = Levels.of(waves.split(2), RATE)
    assert found.rms.tolist() == pytest.approx([-20, 10 * math.log10(0.8 + 0.2e-6), -120], abs=1e-4)
    assert found.floor.tolist() == pytest.approx([-20, -60, -100], abs=1e-4)
    assert found.full.tolist() == [False, True, False]
    for level, full in ((32766.6, True), (32766.4, False)):  # 16 bits store 32767 and 32766
        assert Levels.of([torch.full((1, 1, 8000), level / 32768)], RATE).full.tolist() == [full]


def test_decays_are_compared_class_by_class():
    """The medians of both sets together would be equal."""
    short, long = (Levels.of([falling(tau)], RATE) for tau in (0.05, 0.1))
    joined = Levels(*(torch.cat(pair) for pair in zip(vars(short).values(), vars(long).values(), strict=True)))
    labels, swapped = torch.arange(2).repeat_interleave(8), torch.arange(2).flip(0).repeat_interleave(8)
    classes = ("short", "long")
    assert decay_errors((joined, labels), (joined, labels), classes) == {"short": 0, "long": 0}
    found = decay_errors((joined, swapped), (joined, labels), classes)
    assert found == pytest.approx({"short": 1.0, "long": -0.5}, abs=0.05)
    assert decay_errors((joined, None), (joined, labels), classes) == {"all sounds": 0}
    *_, error, real = level_metrics(
        {"": (joined, swapped), "_real": (joined, labels)}, (joined, labels), classes, {"_real": "real ones"}
    )
    assert (error.name, real.name, real.value) == ("decay_error", "decay_error_real", 0)
    assert error.value == pytest.approx(1.0, abs=0.05)
    assert error.meaning.endswith("%, long -50%")


def test_the_stft_distance_of_a_sound_at_half_the_amplitude_is_a_half_and_ln_2():
    noise = 0.3 * torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0))
    assert stft_distance(noise, noise) == 0
    assert stft_distance(noise, noise / 2) == pytest.approx(0.5 + math.log(2), abs=1e-3)
