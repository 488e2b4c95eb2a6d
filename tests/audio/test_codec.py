import math
from types import SimpleNamespace

import numpy
import pytest
import torch
from tensordict import TensorDict
from torchaudio.transforms import MelSpectrogram

from diffcore.errors import UserError
from diffcore.states.noise import Draws
from diffcore_audio.codec import SoundCodec
from diffcore_audio.data import datasets
from diffcore_audio.options import ComplexFacts, DrumsOptions, MelFacts, SoundFacts, SoundOptions
from diffcore_audio.signals import representations, vocoders


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def complex_facts(**changes):
    codec = ComplexFacts(**{"fft": 254, "hop": 128, "exponent": 0.3, "scale": 2.9, **changes})
    return SoundFacts(rate=16_000, samples=128 * 15, channels=1, codec=codec)


def mel_facts(**changes):
    settings = {"fft": 1024, "hop": 128, "mels": 64, "low": 0, "high": 8000, "floor": 1e-3, "mean": -3, "std": 2}
    codec = MelFacts(**{**settings, "vocoder": "spectral", **changes})
    return SoundFacts(rate=16_000, samples=128 * 15, channels=1, codec=codec)


@pytest.fixture(scope="module")
def drums():
    return datasets.drums(DrumsOptions(sounds=12, codec="complex"))


def log_spectral_distance(one, other):
    """Root mean square over frequencies of the difference in dB, averaged over time; -100 dB at least."""

    def decibels(waveform):
        window = torch.hann_window(512)
        return (
            20
            * torch.stft(waveform.flatten(0, 1), 512, 128, window=window, return_complex=True)
            .abs()
            .clamp(min=1e-3)
            .log10()
        )

    return (decibels(one) - decibels(other)).square().mean(1).sqrt().mean().item()


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_complex_spectrograms_are_the_formula(exponent):
    """A column from the definition of the discrete Fourier transform; the window is centred on sample hop * column."""
    facts = complex_facts(exponent=exponent)
    waveform = normal(1, 1, facts.samples)
    state = representations.representation(facts).state(waveform)
    assert state.shape == (1, 2, 128, 16)
    n, column = numpy.arange(254), 7
    window = 0.5 - 0.5 * numpy.cos(2 * numpy.pi * n / 254)
    piece = waveform[0, 0].numpy()[128 * column - 127 : 128 * column + 127] * window
    c = numpy.exp(-2j * numpy.pi * numpy.outer(numpy.arange(128), n) / 254) @ piece
    expected = 2.9 * abs(c) ** exponent * numpy.exp(1j * numpy.angle(c))
    numpy.testing.assert_allclose(state[0, 0, :, column], expected.real, atol=1e-9)
    numpy.testing.assert_allclose(state[0, 1, :, column], expected.imag, atol=1e-9)


@pytest.mark.parametrize("hop", [128, 64, 100])
def test_complex_spectrograms_are_inverted_exactly(hop):
    facts = complex_facts(hop=hop).model_copy(update={"channels": 2, "samples": hop * 31})
    both = representations.representation(facts)
    waveform = normal(3, 2, facts.samples)
    state = both.state(waveform)
    assert state.shape == (3, *both.shape) == (3, 4, 128, 32)
    torch.testing.assert_close(both.waveform(state), waveform, atol=1e-10, rtol=0)


def test_the_codec_restores_drums(drums):
    codec = SoundCodec(drums.facts)
    encoded = codec.encode(drums.examples)
    assert codec.space.shape == (2, 128, 64)
    waveform = drums.examples["waveform"].float() / 32768
    torch.testing.assert_close(codec.decode(encoded.state), waveform, atol=1e-5, rtol=0)
    assert torch.equal((codec.decode(encoded.state) * 32768).round().to(torch.int16), drums.examples["waveform"])
    assert torch.equal(encoded.conditions["label"], drums.examples["label"])


@pytest.mark.parametrize("kind", ["complex", "mel"])
def test_states_have_unit_variance(kind):
    data = datasets.drums(DrumsOptions(sounds=12, codec=kind))
    state = SoundCodec(data.facts).encode(data.examples).state
    assert state.square().mean().sqrt().item() == pytest.approx(1, abs=1e-4)
    assert state.mean().item() == pytest.approx(0, abs=1e-4 if kind == "mel" else 0.01)
    again = representations.fitted(data.facts, data.examples["waveform"].float() / 32768)
    for name in ("scale",) if kind == "complex" else ("mean", "std"):
        assert getattr(again.codec, name) == pytest.approx(getattr(data.facts.codec, name), rel=1e-5)


def test_a_codec_fitted_to_some_of_the_sounds_suits_all(monkeypatch):
    monkeypatch.setattr(datasets, "_FIT_EXAMPLES", 100)
    data = datasets.drums(DrumsOptions(sounds=50))
    assert len(data.examples) == 270
    state = SoundCodec(data.facts).encode(data.examples).state
    assert state.std().item() == pytest.approx(1, abs=0.05)


def test_polarity_inverts_whole_sounds_in_training_only():
    left_and_right = torch.randint(-9000, 9000, (400, 2, 128 * 15), generator=torch.Generator().manual_seed(0))
    examples = TensorDict({"waveform": left_and_right.short(), "label": torch.zeros(400)}, batch_size=[400])
    facts = complex_facts().model_copy(update={"channels": 2, "polarity": True})
    codec = SoundCodec(facts)
    plain = codec.encode(examples).state
    drawn = codec.encode(examples, Draws.of(0, range(len(examples)))).state
    same, inverted = ((drawn == sign * plain).flatten(1).all(1) for sign in (1, -1))
    assert (same ^ inverted).all()
    assert 0.4 < inverted.double().mean() < 0.6
    without_polarity = SoundCodec(facts.model_copy(update={"polarity": False}))
    assert torch.equal(without_polarity.encode(examples, Draws.of(0, range(len(examples)))).state, plain)


def test_mel_spectrograms_are_the_formula():
    """Explicit triangles of height one with corners evenly spaced in 2595 log10(1 + f / 700)."""
    facts = mel_facts(low=50, high=7000)
    waveform = normal(1, 1, facts.samples)
    state = representations.representation(facts).state(waveform)
    column = 9
    magnitudes = numpy.abs(
        numpy.fft.rfft(numpy.hanning(1025)[:-1] * waveform[0, 0].numpy()[128 * column - 512 : 128 * column + 512])
    )
    low, high = (2595 * math.log10(1 + f / 700) for f in (50, 7000))
    corners = 700 * (10 ** (numpy.linspace(low, high, 66) / 2595) - 1)
    frequencies = numpy.arange(513) * 16_000 / 1024
    mel = [numpy.interp(frequencies, corners[k : k + 3], [0, 1, 0]) @ magnitudes for k in range(64)]
    numpy.testing.assert_allclose(state[0, 0, :, column], (numpy.log(mel) + 3) / 2, atol=1e-4)


def test_mel_spectrograms_agree_with_torchaudio():
    facts = mel_facts()
    waveform = normal(2, 1, facts.samples).float()
    reference = MelSpectrogram(16_000, 1024, hop_length=128, n_mels=64, power=1)(waveform)
    expected = (reference.clamp(min=1e-3).log() + 3) / 2
    torch.testing.assert_close(representations.representation(facts).state(waveform), expected, atol=1e-4, rtol=0)


def test_silence_is_the_floor_and_stays_silent():
    both = representations.representation(mel_facts())
    state = both.state(torch.zeros(1, 1, 128 * 15))
    torch.testing.assert_close(state, torch.full_like(state, (math.log(1e-3) + 3) / 2))
    assert both.waveform(state).abs().max() < 1e-6


def test_errors_around_the_floor_do_not_hiss():
    """The state of silence with errors of up to 2.9 dB is decoded to silence; a band of 4 dB above it is heard."""
    codec = SoundCodec(mel_facts())
    silence = codec.encode(TensorDict({"waveform": torch.zeros(1, 1, 128 * 15)}, batch_size=[1])).state
    decibel = math.log(10) / 20 / 2  # in units of the standard deviation, which is 2
    errors = 2.9 * decibel * (2 * torch.rand(silence.shape, generator=torch.Generator().manual_seed(0)) - 1)
    assert codec.decode(silence + errors).abs().max() == 0
    heard = silence.clone()
    heard[0, 0, 30] += 4 * decibel
    assert codec.decode(heard).abs().max() > 0


def test_mel_spectrograms_are_inverted_to_similar_sounds():
    """Measured: 4.2 dB; the distance of a sound to the next one, mostly of the same instrument, is 17 dB."""
    data = datasets.drums(DrumsOptions(sounds=4, codec="mel", floor=-100))
    codec = SoundCodec(data.facts)
    state = codec.encode(data.examples).state
    waveform = data.examples["waveform"].float() / 32768
    back = codec.decode(state)
    assert back.shape == waveform.shape
    assert torch.equal(back, codec.decode(state))
    distance = log_spectral_distance(waveform, back)
    assert distance < 5
    assert log_spectral_distance(waveform, waveform.roll(1, 0)) > 1.5 * distance


@pytest.mark.parametrize("facts", [complex_facts(), mel_facts()], ids=["complex", "mel"])
def test_whatever_is_decoded_is_finite(facts):
    codec = SoundCodec(facts)
    assert codec.decode(50 * normal(4, *codec.space.shape).float()).isfinite().all()
    assert codec.decode(torch.zeros(1, *codec.space.shape)).isfinite().all()


@pytest.mark.parametrize("seconds", [0.01, 0.12, 0.127, 0.128, 0.5, 1.0])
@pytest.mark.parametrize("hop", [64, 100, 128])
def test_lengths_give_multiples_of_sixteen_columns(seconds, hop):
    options = SoundOptions(seconds=seconds, hop=hop)
    samples = representations.length(options)
    assert (samples // hop + 1) % 16 == 0
    assert samples >= seconds * 16_000 > samples - 16 * hop


def test_vocoders_are_entry_points(monkeypatch):
    def halves(facts, rate):
        assert (facts.mels, rate) == (64, 16_000)
        return lambda log_mel: log_mel.mean((2, 3))[..., None].expand(-1, -1, 100)

    class EntryPoints(dict):
        names = property(lambda self: set(self))

    found = EntryPoints(
        halves=SimpleNamespace(load=lambda: halves),
        broken=SimpleNamespace(load=lambda: (_ for _ in ()).throw(ImportError("no module named x"))),
    )
    monkeypatch.setattr(vocoders.metadata, "entry_points", lambda group: found)
    codec = SoundCodec(mel_facts(vocoder="halves"))
    made = codec.decode(torch.ones(1, 1, 64, 16))
    assert made.shape == (1, 1, 128 * 15)
    assert (made[..., :100] == -1).all()  # 1 * std + mean
    assert (made[..., 100:] == 0).all()
    with pytest.raises(
        UserError, match=r"'mine' is not installed; set `data.vocoder` to one of: spectral, griffin-lim, broken, halves"
    ):
        SoundCodec(mel_facts(vocoder="mine"))
    with pytest.raises(UserError, match=r"'broken' cannot be loaded: ImportError: no module named x"):
        SoundCodec(mel_facts(vocoder="broken"))


def test_too_many_mel_bands_are_refused():
    with pytest.raises(UserError, match=r"of 128 mel bands contain no frequency of a window of 512 .*`data.bands`"):
        SoundCodec(mel_facts(fft=512, mels=128))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codec": "complex", "hop": 200}, "`data.hop` 200 leaves gaps"),
        ({"seconds": 60.0, "rate": 192_000, "hop": 1}, "values, and at most 134,217,728 are supported; decrease"),
        ({"codec": "mel", "hop": 600, "window": 1024}, "`data.hop` 600 is more than half"),
        ({"codec": "mel", "high": 9000.0}, "is required; they are 0, 9000 and 8000 Hz"),
    ],
)
def test_impossible_spectrograms_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        SoundOptions(**changes)


@pytest.mark.parametrize("rate", [2000, 8000, 11_025, 16_000, 22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("bands", [None, 128])
def test_windows_suit_every_rate_and_number_of_bands(rate, bands):
    """About 32 ms, a power of two, and long enough that every band contains a frequency."""
    options = SoundOptions(rate=rate, bands=bands)
    samples = representations.length(options)
    facts = SoundFacts(rate=rate, samples=samples, codec=representations.unfitted(options))
    assert facts.codec.fft >= 0.0225 * rate
    assert facts.codec.fft & (facts.codec.fft - 1) == 0
    assert facts.codec.hop == facts.codec.fft // 4
    assert representations.representation(facts).shape == (1, bands or 64, samples // facts.codec.hop + 1)


def test_the_default_window_at_16_khz_is_512():
    assert (SoundOptions().fft, SoundOptions().step) == (512, 128)


def test_the_floor_is_relative_to_a_full_scale_sine():
    """A sine at a frequency of the transform has the magnitude fft / 4 there."""
    facts = representations.unfitted(SoundOptions(floor=-50))
    sine = torch.sin(2 * math.pi * 1000 * torch.arange(8064, dtype=torch.float64) / 16_000)[None, None]
    magnitude = representations.stft(sine, facts.fft, facts.hop).abs()[0, 0, :, 20].max().item()
    assert 20 * math.log10(facts.floor / magnitude) == pytest.approx(-50, abs=1e-3)


def test_more_bands_than_low_frequencies_are_inverted(drums):
    """Some of 80 bands in a window of 512 repeat others; the sounds keep their level."""
    waveform = drums.examples["waveform"][::9].float() / 32768
    facts = mel_facts(mels=80, fft=512, floor=0.128).model_copy(update={"samples": waveform.shape[2]})
    back = SoundCodec(facts).decode(SoundCodec(facts).encode(drums.examples[::9]).state)
    assert (back.square().mean().sqrt() / waveform.square().mean().sqrt()).item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        ({"fft": 2**20}, "less than or equal to 65536"),
        ({"fft": 2**16, "mels": 4096}, "4096 mel bands with windows of 65536 samples need too much memory"),
        ({"fft": 2**14}, "sounds of 1920 samples are shorter than half a window of 16384"),
    ],
)
def test_facts_of_a_stranger_are_bounded(codec, said):
    with pytest.raises(ValueError, match=said):
        mel_facts(**codec)
    with pytest.raises(ValueError, match="spectrogram of a sound would have"):
        SoundFacts(rate=16_000, samples=2**26, codec=complex_facts(fft=2**10, hop=1).codec)


# Sounds of another length


@pytest.mark.parametrize("kind", ["mel", "complex"])
@pytest.mark.parametrize(("size", "samples"), [("0.05", 800), ("1.5s", 24_000), ("2", 32_000)])
def test_a_codec_of_another_length_decodes_just_this_length(kind, size, samples):
    made = datasets.drums(DrumsOptions(sounds=2, codec=kind))
    codec = SoundCodec(made.facts)
    other = codec.resized(size)
    assert other.space.shape[:2] == codec.space.shape[:2]
    assert other.space.shape[2] % 64 == 0  # as many as a network of the trained 64 columns may need
    assert other.space.shape[2] >= samples / made.facts.codec.hop
    decoded = other.decode(torch.randn(1, *other.space.shape))
    assert decoded.shape == (1, 1, samples)
    assert decoded[..., -1] == 0  # it ends in a fade
    assert decoded[..., -81:-80].abs() > 0
    assert codec.decode(torch.randn(1, *codec.space.shape)).shape == (1, 1, made.facts.samples)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("long", "write a number of seconds, such as 2.5"),
        ("-1", "write a number of seconds"),
        ("nan", "write a number of seconds"),
        ("0.001", "`size` 0.001: sounds of this run can last 0.0161 to 600 s"),
        ("1e6", "sounds of this run can last 0.0161 to 600 s"),
    ],
)
def test_lengths_that_sounds_cannot_have_are_refused(size, message):
    with pytest.raises(UserError, match=message):
        SoundCodec(datasets.drums(DrumsOptions(sounds=2)).facts).resized(size)
