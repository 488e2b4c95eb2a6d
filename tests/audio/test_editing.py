"""Filling in a part of a sound: what is known stays as it is, and no click is heard at the seams."""

import math
from pathlib import Path

import numpy
import pytest
import soundfile
import torch

from diffcore.errors import UserError
from diffcore_audio.codec import SoundCodec
from diffcore_audio.data import datasets
from diffcore_audio.editing import seams
from diffcore_audio.editing.reader import SoundReader
from diffcore_audio.editing.seams import columns_known, joined
from diffcore_audio.options import DrumsOptions

RATE, FFT, HOP = 16000, 512, 128


def tone(phase=0.0, samples=8064, frequency=437.0):
    return 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(samples) / RATE + phase)[None]


def test_a_tone_goes_on_through_a_gap_whatever_phase_was_generated(monkeypatch):
    known = torch.ones(8064, dtype=torch.bool)
    known[2000:4400] = False
    generated = torch.stack([tone(phase) for phase in (0.0, 1.0, math.pi, 4.0)])
    found = joined(generated, tone(), known, FFT, HOP, RATE)
    outside = torch.ones(8064, dtype=torch.bool)
    outside[2000 - 80 : 4400 + 80] = False
    assert torch.equal(found[..., outside], tone().expand(4, 1, -1)[..., outside])
    steps = found.diff(dim=-1).abs().amax(-1)
    assert steps.max() < 1.3 * tone().diff().abs().max()  # no click
    assert (found - tone()).abs()[..., :2100].max() < 0.05  # it begins in the phase of what is known
    loudness = found[..., 2000:4400].square().mean(-1).sqrt()
    torch.testing.assert_close(loudness, torch.full_like(loudness, 0.5 / math.sqrt(2)), rtol=0.15, atol=0)
    monkeypatch.setattr(seams, "_ITERATIONS", 0)
    monkeypatch.setattr(seams, "_turned", lambda generated, original, known: generated)
    monkeypatch.setattr(seams, "_SEAM", 0)
    assert joined(generated, tone(), known, FFT, HOP, RATE).diff(dim=-1).abs().max() > 0.4  # this is a click


def test_what_is_generated_beyond_full_scale_does_not_change_what_is_known():
    known = torch.arange(8064) < 4000
    found = joined(5 * tone(1.0)[None], tone(), known, FFT, HOP, RATE)
    assert torch.equal(found[0, :, :3900], tone()[:, :3900])
    assert found.abs().max() == 1


@pytest.mark.parametrize("gap", [(0, 700), (900, 1000), (3000, 4096), (1000, 1001)])
def test_a_column_is_known_if_its_window_is(gap):
    known = torch.ones(4096, dtype=torch.bool)
    known[slice(*gap)] = False
    expected = []
    for column in range(4096 // HOP + 1):
        at = numpy.arange(-FFT // 2, FFT // 2) + column * HOP
        at = numpy.where(at < 0, -at, at)
        at = numpy.where(at > 4095, 2 * 4095 - at, at)
        expected.append(bool(known[torch.from_numpy(at)].all()))
    assert columns_known(known, FFT, HOP).tolist() == expected


# Files


@pytest.fixture(scope="module")
def codec():
    return SoundCodec(datasets.drums(DrumsOptions(sounds=4)).facts)


@pytest.fixture
def path(tmp_path):
    def write(samples, rate=RATE, channels=1):
        name = tmp_path / f"{samples}-{rate}.wav"
        soundfile.write(name, tone(samples=samples)[0].numpy()[:, None].repeat(channels, 1), rate)
        return Path(name)

    return write


def test_a_file_with_a_gap_is_known_outside_it(codec, path):
    edit = SoundReader(codec).read_gap(path(8064), "0.1..0.2s")
    assert edit.codec.space.shape == codec.space.shape
    unknown = (~edit.known[0, 0, 0]).nonzero()[:, 0]
    assert [unknown.min().item() * HOP, unknown.max().item() * HOP] == pytest.approx([1600, 3200], abs=FFT / 2 + HOP)
    read = torch.from_numpy(soundfile.read(path(8064), dtype="float32")[0])[None]
    torch.testing.assert_close(edit.values, codec.representation.state(read[None]))
    other = SoundReader(codec).read_gap(path(8064), "0.1..0.3")
    assert other.recipe != edit.recipe


def test_a_file_that_is_shorter_or_longer_than_samples(codec, path):
    """A shorter one is continued. Samples are as long as a longer one."""
    short = SoundReader(codec).read_gap(path(4000), None)
    assert short.codec.kept == 8064
    assert short.known[0, 0, 0].sum() == (4000 - FFT // 2) // HOP + 1
    long = SoundReader(codec).read_gap(path(40_000), "1..1.5")
    assert long.codec.kept == 40_000
    assert long.codec.decode(long.values).shape == (1, 1, 40_000)
    further = SoundReader(codec.resized("1")).read_gap(path(8064), None)
    assert further.codec.kept == 16_000
    resampled = SoundReader(codec).read_gap(path(4410, 44_100, 2), None)  # 0.1 s of stereo
    assert resampled.known[0, 0, 0].sum() == (1600 - FFT // 2) // HOP + 1


@pytest.mark.parametrize(
    ("samples", "gap", "message"),
    [
        (8064, None, "nothing is left to be filled in, as the file lasts 0.504 s: give `gap`"),
        (8064, "0.3..0.2", "it must begin before it ends, within the 0.504 s"),
        (8064, "0.1..0.9", "within the 0.504 s"),
        (8064, "nan..", "write a range in seconds, such as 0.2..0.4"),
        (8064, "some", "write a range in seconds"),
        (8064, "0..", "less than a window of the spectrogram is known"),
        (100, None, "less than a window of the spectrogram is known"),
    ],
)
def test_gaps_that_cannot_be_filled_are_refused(codec, path, samples, gap, message):
    with pytest.raises(UserError, match=message):
        SoundReader(codec).read_gap(path(samples), gap)


def test_files_that_are_no_sounds_are_refused(codec, tmp_path):
    for name, message in (("none.wav", "missing"), ("text.wav", "cannot be read")):
        if message != "missing":
            (tmp_path / name).write_text("no sound")
        with pytest.raises(UserError, match=f"{name} cannot be used: {message}"):
            SoundReader(codec).read_gap(tmp_path / name, None)
        with pytest.raises(UserError, match=f"{name} cannot be used: {message}"):
            SoundReader(codec).read(tmp_path / name)
