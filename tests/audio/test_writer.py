"""Files, pictures and players of sounds."""

import base64
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy
import pytest
import soundfile
import torch
from PIL import Image
from pydantic import ValidationError

from diffcore.errors import UserError
from diffcore_audio.options import ComplexFacts, SoundFacts, WritingOptions
from diffcore_audio.output.page import _PLAY_ALL, ticks
from diffcore_audio.output.pictures import envelopes, sheet, spectrograms
from diffcore_audio.output.writer import SoundWriter
from diffcore_audio.signals.spectra import FLOOR, log_mel
from diffcore_audio.signals.waves import pcm, rms_db

RATE = 16000
LSB = 1 / 32768


def codec(rate=RATE, samples=4000, channels=1, classes=()):
    representation = ComplexFacts(fft=254, hop=64, exponent=0.3, scale=1.0)
    facts = SoundFacts(rate=rate, samples=samples, channels=channels, classes=classes, codec=representation)
    return SimpleNamespace(facts=facts)


def noise(n=3, channels=1, samples=4000, peak=0.9):
    waves = torch.randn(n, channels, samples, generator=torch.Generator().manual_seed(0))
    return waves / waves.abs().flatten(1).amax(1)[:, None, None] * peak


def sine(frequency, samples=16000, amplitude=1.0, rate=RATE):
    time = torch.arange(samples, dtype=torch.float64) / rate
    return amplitude * torch.sin(2 * math.pi * frequency * time)[None, None]


@pytest.mark.parametrize(("channels", "rate"), [(1, 16000), (2, 44100)])
def test_files_hold_the_samples_to_a_step_of_16_bits(tmp_path, channels, rate):
    waves = noise(channels=channels)
    paths = SoundWriter(codec(rate, channels=channels)).each(waves, tmp_path, ["a", "b", "c"])
    assert [path.name for path in paths] == ["a.wav", "b.wav", "c.wav"]
    for path, wave in zip(paths, waves, strict=True):
        read, found = soundfile.read(path, always_2d=True)
        assert (found, soundfile.info(path).subtype) == (rate, "PCM_16")
        assert numpy.abs(read.T - wave.numpy()).max() <= LSB / 2 + 1e-9


def test_16_bit_values_are_written_exactly():
    values = torch.arange(-32768, 32768, dtype=torch.int32)
    assert torch.equal(pcm(values.float()[None, None] / 32768)[0, 0].int(), values)
    assert pcm(torch.tensor([[[1.0, -1.0]]])).flatten().tolist() == [32767, -32768]


def test_samples_beyond_full_scale_are_scaled_down_as_a_whole(tmp_path):
    wave = noise(1) * 4
    (path,) = SoundWriter(codec()).each(wave, tmp_path, ["loud"])
    read = torch.from_numpy(soundfile.read(path)[0])
    torch.testing.assert_close(read, wave[0, 0].double() / wave.abs().max(), atol=LSB, rtol=0)
    assert (read.abs() > 0.9999).sum() == 1  # nothing is clipped: only the peak is at full scale


def test_samples_that_are_not_finite_are_written_as_silence(tmp_path):
    waves = noise(3)
    waves[0, 0, 7], waves[2, 0, 0] = math.nan, -math.inf
    written = pcm(waves)
    assert written[0].abs().max() == written[2].abs().max() == 0
    assert torch.equal(written[1], pcm(noise(3))[1])


@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_all_samples_in_one_file_stand_a_tenth_of_a_second_apart(tmp_path, ending):
    waves = noise(3, channels=2)
    path = tmp_path / f"all{ending}"
    SoundWriter(codec(channels=2)).together(waves, path, 2)
    read, rate = soundfile.read(path, dtype="int16")
    pause = numpy.zeros((1600, 2))
    a, b, c = (sample.T.numpy() for sample in pcm(waves))
    assert rate == RATE
    assert numpy.array_equal(read, numpy.concatenate([a, pause, b, pause, c]))
    SoundWriter(codec(channels=2)).stream([(waves[:2], ()), (waves[2:], ())], tmp_path / f"batches{ending}")
    assert numpy.array_equal(soundfile.read(tmp_path / f"batches{ending}", dtype="int16")[0], read)


@pytest.mark.parametrize(("bits", "largest"), [("16", 2**15), ("24", 2**23), ("float", None)])
def test_values_are_stored_to_half_a_step(tmp_path, bits, largest):
    waves = noise(2, channels=2)
    paths = SoundWriter(codec(channels=2), WritingOptions(bits=bits)).each(waves, tmp_path, ["a", "b"])
    for path, wave in zip(paths, waves, strict=True):
        read = torch.from_numpy(soundfile.read(path)[0].T)
        error = (read - wave.double()).abs().max().item()
        assert error == 0 if largest is None else 0.1 / largest < error <= 0.5 / largest + 1e-12


def test_floats_keep_what_exceeds_full_scale_and_other_files_cannot_hold_them(tmp_path):
    (path,) = SoundWriter(codec(), WritingOptions(bits="float")).each(noise(1) * 4, tmp_path, ["loud"])
    assert numpy.array_equal(soundfile.read(path, dtype="float32")[0], (noise(1) * 4)[0, 0].numpy())
    for name in ("all.flac", "all.ogg"):
        with pytest.raises(UserError, match=r"files cannot hold floats: choose `write\.bits` 16 or 24, or a \.wav"):
            SoundWriter(codec(), WritingOptions(bits="float")).together(noise(1), tmp_path / name, 1)
    with pytest.raises(ValidationError, match="flac files cannot hold floats"):
        WritingOptions(format="flac", bits="float")


@pytest.mark.parametrize(("ending", "tolerance"), [("flac", LSB / 2), ("ogg", 0.05)])
def test_the_format_of_files_in_a_folder_is_chosen(tmp_path, ending, tolerance):
    waves = sine(440, 8000, 0.5, 44100).float()
    (path,) = SoundWriter(codec(rate=44100), WritingOptions(format=ending)).each(waves, tmp_path, ["a"])
    assert path.name == f"a.{ending}"
    read, rate = soundfile.read(path)
    assert (rate, soundfile.info(path).format) == (44100, ending.upper())
    assert numpy.abs(read - waves[0, 0].numpy()).max() <= tolerance + 1e-9


def test_a_rate_that_a_format_cannot_have_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="OGG files have at most 200,000 Hz, and the data 1,000,000: write WAV"):
        SoundWriter(codec(rate=1_000_000), WritingOptions(format="ogg")).each(noise(1), tmp_path, ["a"])


def test_one_file_of_all_has_one_gain_and_files_in_a_folder_have_one_each_or_that_of_the_options(tmp_path):
    waves = torch.cat([noise(1), noise(1) * 2, noise(1) * 4])  # peaks of 0.9, 1.8 and 3.6
    SoundWriter(codec()).stream([(waves[:2], ()), (waves[2:], ())], tmp_path / "all.wav")
    together = soundfile.read(tmp_path / "all.wav")[0]
    found = [numpy.abs(together[start : start + 4000]).max() for start in (0, 5600, 11200)]
    assert found == pytest.approx([0.25, 0.5, 1.0], abs=2 * LSB)
    alone = SoundWriter(codec()).each(waves, tmp_path, ["a", "b", "c"])
    assert [numpy.abs(soundfile.read(path)[0]).max() for path in alone] == pytest.approx([0.9, 1, 1], abs=2 * LSB)
    line = SoundWriter(codec()).summary(waves)[1]
    assert line.endswith("`write.gain` -11.2 keeps all within it and their relative loudness")
    quiet = SoundWriter(codec(), WritingOptions(gain=-11.2)).each(waves, tmp_path, ["d", "e", "f"])
    peaks = [numpy.abs(soundfile.read(path)[0]).max() for path in quiet]
    assert peaks == pytest.approx([0.9 * k * 10 ** (-11.2 / 20) for k in (1, 2, 4)], abs=2 * LSB)
    assert len(SoundWriter(codec(), WritingOptions(gain=-11.2)).summary(waves)) == 1


def test_a_fade_ends_in_silence_and_begins_where_it_is_told(tmp_path):
    waves = torch.full((1, 1, 4000), 0.5)
    (path,) = SoundWriter(codec(), WritingOptions(fade=0.1)).each(waves, tmp_path, ["a"])
    read = soundfile.read(path)[0]
    assert (read[:2400] == 0.5).all()
    assert read[-1] == 0
    assert read[3200] == pytest.approx(0.5 * math.sin(math.pi / 4), abs=1e-3)


def test_dither_makes_the_error_independent_of_the_sound(tmp_path):
    """Without it, a tone of a third of a step is lost; with it, the tone is there, in white noise of 1/2 step RMS."""
    tone = sine(1000, 160_000, LSB / 3).float()
    writers = {dither: SoundWriter(codec(samples=160_000), WritingOptions(dither=dither)) for dither in (False, True)}
    plain, dithered = (writers[d].each(tone, tmp_path, [f"{d}"])[0].read_bytes() for d in (False, True))
    assert set(plain[44:]) == {0}
    read = torch.from_numpy(soundfile.read(tmp_path / "True.wav")[0]) / LSB
    error = read - tone[0, 0].double() / LSB
    assert error.square().mean().sqrt().item() == pytest.approx(0.5, rel=0.02)  # sqrt(1/12 + 1/6)
    assert (read * tone[0, 0]).mean().item() == pytest.approx((tone.square().mean() / LSB).item(), rel=0.05)
    assert writers[True].each(tone, tmp_path, ["again"])[0].read_bytes() == dithered


def test_loudness_is_in_decibels_of_full_scale():
    assert rms_db(sine(1000)).item() == pytest.approx(10 * math.log10(0.5), abs=1e-9)
    assert rms_db(sine(1000, amplitude=0.01)).item() == pytest.approx(-43.0103, abs=1e-4)
    assert rms_db(torch.full((1, 2, 50), -1.0)).item() == 0
    assert rms_db(torch.zeros(1, 1, 50)).item() == -120


def test_the_summary_counts_silent_scaled_and_non_finite_samples():
    waves = torch.cat([sine(1000, 4000, a) for a in (0.1, 0.5, 2.0, 1e-4, 0.0)]).float()
    waves = torch.cat([waves, torch.full((1, 1, 4000), math.nan)])
    lines = SoundWriter(codec()).summary(waves)
    assert "2 of 6 samples are silent" in lines[0]
    assert lines[1].startswith("1 of 6 samples exceed full scale (up to 2.00)")
    assert lines[2].startswith("1 of 6 samples have values that are not finite")
    assert len(SoundWriter(codec()).summary(waves[:2])) == 1
    assert SoundWriter(codec()).summary(waves[1:2])[0].startswith("median RMS -9.0 dBFS; 0 of 1")


# Spectra


def centre(band):
    """Hz of the middle of a band: 64 of them between 0 and rate / 2, evenly in mel = 2595 log10(1 + f / 700)."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    return 700 * (10 ** (top * (band + 1) / 65 / 2595) - 1)


@pytest.mark.parametrize("band", [10, 25, 40, 60])
def test_a_tone_is_loudest_in_the_band_whose_middle_it_has(band):
    levels = log_mel(sine(centre(band)), RATE)[0, :, 10:-10]
    assert (levels.argmax(0) == band).all()
    # The slopes of the triangle attenuate the main lobe of the window, 62.5 Hz to either side; less if it is wide.
    assert levels[band].min() > (-4 if band == 10 else -2 if band < 40 else -0.6)
    assert levels[band].max() <= 1e-3


def test_levels_are_those_of_the_waveform():
    loud, quiet = (log_mel(sine(centre(50), amplitude=a), RATE)[0, 50, 10:-10] for a in (1.0, 0.01))
    torch.testing.assert_close(loud - quiet, torch.full_like(loud, 40.0), atol=1e-3, rtol=0)
    assert (log_mel(torch.zeros(1, 1, 4000), RATE) == FLOOR).all()
    assert (log_mel(torch.full((1, 1, 4000), math.nan), RATE) == FLOOR).all()
    stereo = torch.cat([sine(centre(50)), torch.zeros(1, 1, 16000)], 1)
    half = log_mel(stereo, RATE)[0, 50, 10:-10]
    torch.testing.assert_close(loud - half, torch.full_like(loud, 10 * math.log10(2)), atol=1e-3, rtol=0)


def test_white_noise_has_the_power_of_its_triangles():
    """The density of white noise is constant up to rate / 2, so the power of a band is proportional to its width."""
    waves = torch.randn(64, 1, 16000, generator=torch.Generator().manual_seed(1)) * 0.1
    powers = (10 ** (log_mel(waves, RATE)[..., 5:-5] / 10)).mean((0, 2))
    for band in (20, 40, 60):
        width = (centre(band + 1) - centre(band - 1)) / 2
        # A sine of amplitude A has power A^2 here, twice its mean square.
        assert powers[band].item() == pytest.approx(2 * 0.01 * width / (RATE / 2), rel=0.03)


def test_fewer_frames_are_averages_of_powers():
    waves = noise(2, samples=16000)
    many, few = log_mel(waves, RATE)[..., :120], log_mel(waves[..., : 119 * 128], RATE, 30)
    assert few.shape == (2, 64, 30)
    powers = 10 ** (log_mel(waves[..., : 119 * 128], RATE) / 10)
    torch.testing.assert_close(10 ** (few / 10), powers.unflatten(2, (30, 4)).mean(3), rtol=1e-4, atol=1e-10)
    assert many.shape[2] == 120


# Pictures


def test_low_tones_are_below_and_loud_is_bright():
    low, high, silent = spectrograms(torch.cat([sine(200), sine(6000), torch.zeros(1, 1, 16000)]), RATE, (64, 64))
    rows = [numpy.asarray(picture.convert("L"), dtype=float).mean(1).argmax() for picture in (low, high)]
    assert rows[0] > 50 > 15 > rows[1]
    assert numpy.asarray(silent.convert("RGB")).max() <= 4
    assert numpy.asarray(low.convert("L")).max() > 200


def test_envelopes_are_the_extremes_of_the_written_waveform():
    wave = torch.tensor([[[0.0, 0.5, -0.25, 0.0, 4.0, -2.0, 1.0, 0.0]]])
    found = envelopes(wave, 4)[0]
    assert found.tolist() == [[0, 0.125], [-0.0625, 0.125], [-0.5, 1], [-0.5, 0.25]]
    assert (envelopes(torch.full((1, 1, 8), math.nan), 4) == 0).all()


def test_a_sheet_has_a_tile_for_each_sample(tmp_path):
    waves = torch.cat([noise(1), noise(1) * 3, torch.zeros(1, 1, 4000)])
    picture = numpy.asarray(sheet(waves, RATE, ["kick", "a name that is much too long for a tile", "x"], 2), dtype=int)
    one = numpy.asarray(sheet(waves[:1], RATE, ["kick"], 10), dtype=int)
    height, width = one.shape[0] - 8, one.shape[1] - 8  # a tile and the gap after it
    assert picture.shape == (2 * height + 8, 2 * width + 8, 3)
    assert numpy.array_equal(picture[: height + 8, : width + 8], one)
    assert (picture[height + 8 :, width + 8 :] == 255).all()  # no fourth sample
    assert ((picture == (0xD9, 0x77, 0x06)).all(2).sum(0).nonzero()[0] >= width).all()  # amber is the second alone
    assert (picture == (0xD9, 0x77, 0x06)).all(2).any()
    SoundWriter(codec()).together(waves, tmp_path / "grid.png", 2, [{"label": "kick"}, {}, {}])
    assert Image.open(tmp_path / "grid.png").size == (picture.shape[1], picture.shape[0])


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("img", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "polygon":
            assert self.open.pop() == tag


@pytest.mark.parametrize("channels", [1, 2])
def test_the_page_plays_every_sample_without_a_network(channels):
    waves = noise(4, channels=channels)
    captions = [{"label": "<b>"}, {"label": "kick"}, {}, {}]
    page = SoundWriter(codec(channels=channels)).html(waves, 10, captions)
    tags = Tags(page).found
    players = [attrs["src"] for tag, attrs in tags if tag == "audio" and "controls" in attrs]
    images = [attrs["src"] for tag, attrs in tags if tag == "img"]
    assert len(players) == len(images) == 4
    for source, wave in zip(players, waves, strict=True):
        kind, content = source.split(",")
        assert kind == "data:audio/wav;base64"
        read, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
        assert (rate, read.ndim) == (RATE, 1)
        assert numpy.abs(read - wave.mean(0).numpy()).max() <= LSB
    for source in images:
        picture = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"))))
        assert picture.size == (128, 72)
    assert page.count("<polygon") == 4
    assert page.count("<figure ") == page.count("</figure>") == 4
    assert "&lt;b&gt;" in page
    assert "kick" in page
    assert not re.search(r"https?:|src=\"(?!data:)", page)
    assert len(page) < 4 * (4000 * 2 * 4 / 3 + 20_000)


def test_real_sounds_are_beside_samples_for_comparison():
    samples, real = noise(3), sine(440, 4000, 0.25).float().expand(2, 1, -1)
    captions = [{"label": "kick"}, {"label": "tom"}, {}]
    page = SoundWriter(codec()).html(samples, 10, captions, real=real)
    figures = page.split("<figure ")[1:]
    labels = [re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", figure) for figure in figures]
    assert labels == [["0 kick", "real, as 0 kick"], ["1 tom", "real, as 1 tom"], ["2"]]
    tags = Tags(page).found
    players = [attrs["src"] for tag, attrs in tags if tag == "audio"]
    decoded = [soundfile.read(io.BytesIO(base64.b64decode(source.split(",")[1])))[0] for source in players]
    expected = [samples[0], real[0], samples[1], real[1], samples[2]]
    for found, wave in zip(decoded, expected, strict=True):
        assert numpy.abs(found - wave[0].numpy()).max() <= LSB
    buttons = [attrs["onclick"] for tag, attrs in tags if tag == "button"]
    assert len(buttons) == 1
    assert '"' not in buttons[0]
    assert "Amber: the sound exceeds full scale" in page


@pytest.mark.parametrize(
    ("rate", "shown"), [(16_000, [5000, 2000, 1000, 200]), (44_100, [10_000, 5000, 2000, 500]), (2000, [500, 200])]
)
def test_the_axis_of_a_spectrogram_has_round_frequencies_at_their_height(rate, shown):
    found = ticks(rate)
    assert [frequency for frequency, _ in found] == shown
    for frequency, height in found:
        tone = sine(frequency, rate, rate=rate).float()
        picture = numpy.asarray(spectrograms(tone, rate, (64, 640))[0].convert("L"), dtype=float)
        assert 1 - (picture.mean(1).argmax() + 0.5) / 640 == pytest.approx(height, abs=0.03)


def test_a_button_plays_all_sounds_of_its_box_and_stops_them():
    """The script runs in Node where it is installed: three sounds one after another, the second of which fails."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    script = """
    const log = [], audio = (name, fails) => ({currentTime: 9, pause() { log.push("pause " + name) }, play() {
        log.push(name + " at " + this.currentTime);
        return {catch(f) { if (fails) f() }};
    }});
    const sounds = [audio("a"), audio("b", true), audio("c")];
    const box = {querySelectorAll: () => sounds}, button = {parentNode: box, textContent: "Play all"};
    const click = new Function(CODE.replace("})(this)", "})(arguments[0])"));
    click(button); sounds[0].onended(); log.push(button.textContent);
    click(button); log.push(button.textContent);
    click(button); sounds[0].onended(); sounds[2].onended(); log.push(button.textContent);
    console.log(JSON.stringify(log));
    """
    code = f"const CODE = {json.dumps(_PLAY_ALL)};{script}"
    done = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
    played = ["a at 0", "b at 0", "c at 0"]
    assert json.loads(done.stdout) == [*played, "Stop", "pause c", "Play all", *played, "pause c", "Play all"]
