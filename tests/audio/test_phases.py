"""Magnitudes from mel bands, and phases for magnitudes: compared with closed forms and with other implementations."""

import math

import numpy
import pytest
import torch
from scipy.optimize import nnls
from torchaudio.functional import griffinlim
from torchaudio.transforms import InverseMelScale

from diffcore_audio.options import MelFacts
from diffcore_audio.signals import phases, vocoders
from diffcore_audio.signals.distances import log_spectral_distance
from diffcore_audio.signals.fourier import stft
from diffcore_audio.signals.inversion import mel_filters, nonnegative_inverse
from diffcore_audio.signals.phases import consistent, integrated_phases

RATE, FFT, HOP, SAMPLES = 16_000, 512, 128, 8064
TIME = torch.arange(SAMPLES, dtype=torch.float64) / RATE
WINDOW = torch.hann_window(FFT, dtype=torch.float64)

SOUNDS = {
    "tone": torch.sin(2 * math.pi * 1234.5 * TIME) * torch.exp(-8 * TIME),
    "chirp": torch.sin(2 * math.pi * (500 * TIME + 2000 * TIME**2)),
    "pulse": (torch.arange(SAMPLES) == 4000).double(),
}


def facts(**changes):
    values = {"fft": FFT, "hop": HOP, "mels": 64, "low": 0, "high": 8000, "floor": 0.03, "mean": 0, "std": 1}
    return MelFacts(**{**values, "vocoder": "spectral", **changes})


def misfit(magnitudes, found):
    """The part of the magnitudes that the waveform does not have, in dB."""
    own = stft(found[None], FFT, HOP)[0].abs()
    return 20 * math.log10(((own - magnitudes).norm() / magnitudes.norm()).item())


def griffin_lim(magnitudes, iterations=32):
    return griffinlim(magnitudes, WINDOW, FFT, HOP, FFT, 1.0, iterations, 0.99, SAMPLES, False)


@pytest.mark.parametrize(("sound", "limit"), [("tone", -20), ("chirp", -17), ("pulse", -25)])
def test_integrated_phases_are_those_of_tones_chirps_and_pulses(sound, limit):
    """Without any iteration; phases that are zero have -2, -1 and 0 dB."""
    c = stft(SOUNDS[sound][None, None], FFT, HOP)[0]
    found = integrated_phases(c.abs(), FFT, HOP)
    window = {"window": WINDOW, "length": SAMPLES}
    waveform = torch.istft(torch.polar(c.abs(), found), FFT, HOP, **window)
    assert misfit(c.abs(), waveform) < limit
    assert misfit(c.abs(), torch.istft(c.abs() + 0j, FFT, HOP, **window)) > -8


@pytest.mark.parametrize(("sound", "gain"), [("tone", 30), ("pulse", 20)])
def test_iterations_from_integrated_phases_end_far_nearer_than_from_zero(sound, gain):
    magnitudes = stft(SOUNDS[sound][None, None], FFT, HOP)[0].abs()
    start = torch.polar(torch.ones_like(magnitudes), integrated_phases(magnitudes, FFT, HOP))
    found = consistent(start, magnitudes, FFT, HOP, SAMPLES, 16, 0.99)
    assert misfit(magnitudes, found) < misfit(magnitudes, griffin_lim(magnitudes)) - gain


def test_phases_that_are_integrated_in_parts_are_those_of_the_whole(monkeypatch):
    magnitudes = stft(SOUNDS["tone"][None, None], FFT, HOP)[0].abs()[:, :100]
    whole = integrated_phases(magnitudes, FFT, HOP)
    monkeypatch.setattr(phases, "_COLUMNS", 20)
    parts = integrated_phases(magnitudes, FFT, HOP)
    at_the_tone = (parts - whole)[0, round(1234.5 * FFT / RATE), 2:-2]
    turned = torch.exp(1j * (at_the_tone - at_the_tone[0]))
    torch.testing.assert_close(turned, torch.ones_like(turned), atol=0.05, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 5, 1), (2, 4, 3), (1, 0, 4)])
def test_small_silent_and_empty_spectrograms_have_finite_phases(shape):
    assert integrated_phases(torch.zeros(shape), FFT, HOP).eq(0).all()
    found = integrated_phases(torch.rand(shape), FFT, HOP)
    assert found.shape == shape
    assert found.isfinite().all()


def test_sounds_of_a_batch_do_not_depend_on_each_other():
    c = stft(torch.stack([SOUNDS["tone"], SOUNDS["chirp"]])[:, None], FFT, HOP)[:, 0].abs()
    assert torch.equal(integrated_phases(c, FFT, HOP)[1:], integrated_phases(c[1:], FFT, HOP))


def test_iterations_are_those_of_torchaudio():
    magnitudes = stft(SOUNDS["chirp"][None, None], FFT, HOP)[0].abs()
    found = consistent(torch.ones_like(magnitudes) + 0j, magnitudes, FFT, HOP, SAMPLES, 5, 0.99)
    torch.testing.assert_close(found, griffin_lim(magnitudes, 5), atol=1e-6, rtol=0)


def test_magnitudes_fit_the_bands_as_those_of_another_solver():
    """`scipy.optimize.nnls` solves the same problem exactly; both fit such levels, which exist, to a small rest."""
    filters = mel_filters(facts(), RATE).double()
    real = torch.rand(FFT // 2 + 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    levels = filters.T @ real
    found = nonnegative_inverse(filters, 400)(levels)
    assert found.min() >= 0
    rest = (filters.T @ found - levels).norm(dim=0) / levels.norm(dim=0)
    assert rest.max() < 2e-3
    levels[::2] = 0  # no magnitudes have these levels exactly
    rows = (filters / filters.norm(dim=0)).T
    target = levels / filters.norm(dim=0)[:, None]
    found = rows @ nonnegative_inverse(filters, 400)(levels)
    for column in range(3):
        _, expected = nnls(rows.numpy(), target[:, column].numpy())
        assert (found - target)[:, column].norm().item() == pytest.approx(expected, rel=1e-2)


def test_without_iterations_it_is_the_solution_of_least_norm_of_torchaudio():
    filters = mel_filters(facts(fft=1024), RATE)
    levels = torch.randn(2, 1, 64, 4, generator=torch.Generator().manual_seed(0)).exp()
    expected = InverseMelScale(513, 64, RATE)(levels)
    torch.testing.assert_close(nonnegative_inverse(filters, 0)(levels), expected, atol=2e-3, rtol=1e-3)


def test_partials_between_bands_are_found():
    """A tone of 3 kHz, where bands are 144 Hz apart; its magnitudes, and then the sound, from its mel bands."""
    tone = 0.5 * torch.sin(2 * math.pi * 3000 * TIME)[None, None].float()
    c = stft(tone, FFT, HOP).abs()
    filters = mel_filters(facts(), RATE)
    wrong = [
        ((nonnegative_inverse(filters, iterations)(filters.T @ c) - c).norm() / c.norm()).item()
        for iterations in (0, 40)
    ]
    assert wrong[1] < wrong[0] / 2
    levels = (filters.T @ c).clamp(min=0.03).log()
    found = vocoders.spectral(facts(), RATE)(levels)
    simpler = vocoders.griffin_lim(facts(), RATE)(levels)
    assert log_spectral_distance(tone, found) < 0.5 * log_spectral_distance(tone, simpler)


def test_numbers_of_gradients_are_in_the_right_direction():
    """A tone's phase grows by 2 pi f hop / rate from column to column: no integration of many steps hides an error."""
    c = stft(SOUNDS["tone"][None, None], FFT, HOP)[0]
    found = integrated_phases(c.abs(), FFT, HOP)[0]
    at = round(1234.5 * FFT / RATE)
    steps = numpy.remainder(found[at].diff().numpy()[3:-3], 2 * math.pi)
    expected = 2 * math.pi * 1234.5 * HOP / RATE % (2 * math.pi)
    assert numpy.median(steps) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("name", ["spectral", "griffin-lim"])
def test_sounds_have_the_energy_of_their_spectrograms(name):
    """In bands, of noise too, of which 5 to 10 % would be lost without the last step; silence stays silent."""
    torch.manual_seed(0)
    settings, filters = facts(vocoder=name), mel_filters(facts(), RATE).double()
    sounds = torch.stack([0.1 * torch.randn(SAMPLES).double(), SOUNDS["tone"], torch.zeros(SAMPLES).double()])[:, None]
    bands = filters.T @ stft(sounds, FFT, HOP).abs()
    found = vocoders.vocoder(settings, RATE)(bands.clamp(min=settings.floor).log())
    obtained = filters.T @ stft(found, FFT, HOP).abs()
    torch.testing.assert_close(obtained.square().sum((1, 2, 3)), bands.square().sum((1, 2, 3)), rtol=1e-3, atol=1e-9)
