"""Sounds of any kind as examples of one format, and what is said of the changes."""

import math

import numpy
import pytest
import torch

from diffcore_audio.data.files import Sound
from diffcore_audio.data.fitting import Format, SilentError, clipped, fit
from diffcore_audio.signals.resampling import resampled

RATE, LENGTH = 16_000, 8064
MONO, STEREO = Format(RATE, LENGTH, 1, trim=True), Format(RATE, LENGTH, 2, trim=True)


def sound(*channels, rate=RATE):
    return Sound(numpy.array(channels, numpy.float32), rate)


def tone(frequency=300, seconds=0.6, level=0.5, rate=RATE):
    return level * numpy.cos(2 * numpy.pi * frequency * numpy.arange(round(seconds * rate)) / rate)


def hiss(level, seconds):
    return 10 ** (level / 20) * numpy.random.default_rng(0).standard_normal(round(seconds * RATE))


def test_silence_is_judged_after_the_cut():
    """The hiss is less than 60 dB below the drum, so it is not cut as the silence at the beginning."""
    late = numpy.concatenate([hiss(-63, 2), tone()])
    with pytest.raises(SilentError, match=r"silent \(below -60 dB\) in the 0.504 s that would be used, and louder"):
        fit(sound(late), MONO)
    early = numpy.concatenate([hiss(-63, 0.2), tone()])
    example, changes = fit(sound(early), Format(RATE, LENGTH, 1))
    numpy.testing.assert_allclose(example[0, 3300:7900] / 32768, tone()[100:4700], atol=1e-4)
    assert changes == ["cut to 0.504 s"]


@pytest.mark.parametrize(("level", "silent"), [(-63, True), (-57, False)])
def test_a_sound_is_silent_below_60_decibels(level, silent):
    waveform = tone(level=math.sqrt(2) * 10 ** (level / 20))
    if silent:
        with pytest.raises(SilentError, match=r"^silent \(below -60 dB\)$"):
            fit(sound(waveform), MONO)
    else:
        assert fit(sound(waveform), MONO)[0].abs().max() > 50


def test_a_short_quiet_click_is_a_sound():
    click = numpy.zeros(LENGTH)
    click[100:400] = tone(1000, 1, 0.005)[:300]
    assert fit(sound(click), MONO)[0].abs().max() > 150


def test_an_offset_is_no_sound():
    with pytest.raises(SilentError):
        fit(sound(numpy.full(8000, 0.2) + hiss(-70, 0.5)), MONO)
    for channels in ((tone() + 0.2,), (tone() - 0.1, tone() + 0.3)):
        example, changes = fit(sound(*channels), MONO)
        numpy.testing.assert_allclose(example[0, :7900] / 32768, tone()[: LENGTH - 164], atol=2e-3)
        assert "a constant offset was removed" in changes


@pytest.mark.parametrize(
    "waveform",
    [
        tone(50, 0.4) * numpy.exp(-numpy.arange(6400) / 1000),  # has a mean of 0.0064 while it sounds
        numpy.where(numpy.arange(8000) % 100 < 10, 0.9, -0.1),  # has a median of -0.1, and no mean
    ],
    ids=["decaying", "asymmetric"],
)
def test_sounds_that_are_not_symmetric_have_no_offset(waveform):
    example, changes = fit(sound(waveform), Format(RATE, LENGTH, 1))
    numpy.testing.assert_allclose(example[0, : len(waveform)] / 32768, waveform, atol=1e-4)
    assert "a constant offset was removed" not in changes


def test_channels_that_cancel_each_other_are_not_mixed():
    example, changes = fit(sound(tone(), -0.999 * tone()), MONO)
    numpy.testing.assert_allclose(example[0, :7900] / 32768, tone()[:7900], atol=1e-4)
    assert changes[0] == "the 2 channels cancel each other when they are mixed, so only one was used"
    example, changes = fit(sound(tone(), 0.4 * tone()), MONO)
    numpy.testing.assert_allclose(example[0, :7900] / 32768, 0.7 * tone()[:7900], atol=1e-4)
    assert changes[0] == "mixed from 2 channels to one"
    example, changes = fit(sound(tone(), -tone()), STEREO)
    assert torch.equal(example[0], -example[1])
    assert changes == ["cut to 0.504 s"]


def test_changes_of_format_are_told():
    short = tone(rate=48_000, seconds=0.2)
    assert fit(sound(short, rate=48_000), STEREO)[1] == [
        "one channel, used for both sides",
        "resampled from 48000 Hz",
        "extended with silence to 0.504 s",
    ]
    late = numpy.concatenate([numpy.zeros(1000), tone()])
    assert fit(sound(*[late] * 6), STEREO)[1] == [
        "the first two of 6 channels were kept",
        "silence at the beginning was cut",
        "cut to 0.504 s",
    ]
    assert fit(sound(tone(seconds=LENGTH / RATE)), MONO)[1] == []
    cut = Sound(numpy.array([tone()], numpy.float32), RATE, cut=True)
    assert fit(cut, MONO)[1] == fit(Sound(cut.samples, RATE), MONO)[1]


def test_floats_beyond_full_scale_are_scaled_and_not_clipped():
    loud = tone(level=2.5)
    example, changes = fit(sound(loud), MONO)
    numpy.testing.assert_allclose(example[0, :7900] / 32768, loud[:7900] / 2.5, atol=1e-4)
    assert "scaled down as a whole, because they exceed full scale" in changes
    assert not clipped(sound(loud).samples)
    assert clipped(sound(loud.clip(-1, 1)).samples)
    for frequency in (40, 300, 3000):  # only touches full scale
        assert not clipped(sound(numpy.round(tone(frequency, level=32767)) / 32768).samples)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_resampling_keeps_what_is_below_nyquist_and_folds_nothing(rate):
    """Tones up to 0.9 of the lower Nyquist frequency within 0.2 dB; those above it, 60 dB lower."""
    time = torch.arange(rate // 2, dtype=torch.float64) / rate

    def level(frequency):
        tone = torch.sin(2 * math.pi * frequency * time + 0.3).float()[None]
        middle = resampled(tone, rate, RATE)[0, 2000:-2000].double()
        return 10 * math.log10(2 * middle.square().mean().item() + 1e-12)

    nyquist = min(rate, RATE) / 2
    assert max(abs(level(share * nyquist)) for share in (0.05, 0.5, 0.8, 0.9)) < 0.05
    if rate > RATE:
        assert max(level(f) for f in (8050, 8100, 8200, 8400, 9000, 10_500) if f < rate / 2) < -70
    else:
        tone = torch.sin(2 * math.pi * 0.9 * nyquist * time).float()[None]
        spectrum = torch.fft.rfft(resampled(tone, rate, RATE)[0, 2000:-2000] * torch.hann_window(4000)).abs()
        hertz = torch.arange(len(spectrum)) * RATE / 4000
        assert spectrum[hertz > nyquist].max() < 1e-3 * spectrum.max()


def test_tables_of_odd_rates_are_small():
    """The tone keeps its pitch, and no more than 1,000 phases are tabulated."""
    time = torch.arange(96_001, dtype=torch.float64) / 191_999
    tone = torch.sin(2 * math.pi * 1000 * time).float()[None]
    for new_rate in (16_000, 44_100, 191_998):
        found = resampled(tone, 191_999, new_rate)[0]
        assert found.shape[0] == pytest.approx(96_001 * new_rate / 191_999, abs=2)
        spectrum = torch.fft.rfft(found * torch.hann_window(len(found)), 1 << 19).abs()
        assert spectrum.argmax().item() * new_rate / (1 << 19) == pytest.approx(1000, abs=0.6)
