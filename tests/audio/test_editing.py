"""Filling in a part of a sound: what is known stays as it is, and no click is heard at the seams."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import soundfile
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffcore.errors import UserError
from diffcore.runs.latents import LatentCodec
from diffcore.runs.measurements import inpainting_of
from diffcore.runs.model import Model
from diffcore_audio.codec import SoundCodec
from diffcore_audio.data import datasets, files
from diffcore_audio.editing import reader, seams
from diffcore_audio.editing.reader import SoundReader
from diffcore_audio.editing.seams import columns_known, joined
from diffcore_audio.options import DrumsOptions
from diffcore_audio.plugin import AUDIO

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


@pytest.mark.parametrize("gap", [(300, 400), (0, 100), (900, 1000), (500, 501)])
def test_the_cross_fade_has_as_many_samples_as_told_on_each_side_of_a_gap(gap):
    known = torch.ones(1000, dtype=torch.bool)
    known[slice(*gap)] = False
    distances = [min(abs(place - other) for other in range(*gap)) for place in range(1000)]
    expected = [min(distance / 81, 1) for distance in distances]
    assert seams._weights(known, 80).tolist() == pytest.approx(expected, abs=1e-6)
    assert sum(0 < weight < 1 for weight in expected) == 80 * ((gap[0] > 0) + (gap[1] < 1000))


def test_the_memory_of_the_cross_fade_is_a_few_times_that_of_the_sound():
    """Windows around each sample of one minute at 44.1 kHz would take 4.7 GB."""

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            tensors = [each for each in (found if isinstance(found, tuple) else (found,)) if isinstance(each, Tensor)]
            self.size = max([self.size, *(each.untyped_storage().nbytes() for each in tensors)])
            return found

    with Largest() as largest:
        seams._weights(torch.arange(10_000) < 9000, 220)
    assert 10_000 <= largest.size <= 10_000 * 16


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


def test_files_that_are_too_long_are_refused_with_the_length_that_is_read(codec, path, monkeypatch):
    monkeypatch.setattr(files, "MOST_VALUES", 2**16)
    monkeypatch.setattr(reader, "MOST_VALUES", 2**16)
    with pytest.raises(UserError, match=r"lasts longer than 0\.743 s, the most that is read of 2 channels at 44100 Hz"):
        SoundReader(codec).read_gap(path(40_000, 44_100, 2), "0.1..0.2")


def test_models_of_one_length_take_no_longer_file(path):
    """Those that enlarge, and networks whose positions are those of one grid."""
    enlarging = SoundCodec(datasets.drums(DrumsOptions(sounds=4, upscale=4)).facts)
    lasts, trained = enlarging.facts.samples + 100, enlarging.facts.samples / RATE
    with pytest.raises(UserError, match=f"s: a model that enlarges draws sounds of the length .*, {trained:.3g} s"):
        SoundReader(enlarging).read_gap(path(lasts), "0.1..0.2")
    codec = SoundCodec(datasets.drums(DrumsOptions(sounds=4)).facts)
    network = SimpleNamespace(backbone=SimpleNamespace(any_size=False))
    model = Model(AUDIO, codec, network, None, "cpu", None)
    assert inpainting_of(model, path(8064), gap="0.1..0.2").codec.kept == 8064
    with pytest.raises(UserError, match="another size: the network of this run takes samples of the size of the train"):
        inpainting_of(model, path(9000), gap="0.1..0.2")
    network.backbone.any_size = True
    assert inpainting_of(model, path(9000), gap="0.1..0.2").codec.kept == 9000


def test_latents_are_not_filled_in(codec, path):
    class Latents(LatentCodec):
        def __init__(self):
            nn.Module.__init__(self)
            self.of_samples = codec

    with pytest.raises(UserError, match="`inpaint` does not work in latents of audio: use a run that diffuses samples"):
        inpainting_of(Model(AUDIO, Latents(), None, None, "cpu", None), path(8064), gap="0.1..0.2")


@pytest.mark.parametrize(
    ("samples", "gap", "message"),
    [
        (8064, None, "nothing is left to be filled in, as the file lasts 0.504 s: give `gap`"),
        (8064, "0.3..0.2", "it must begin before it ends, within the 0.504 s"),
        (8064, "0.1..0.9", "within the 0.504 s"),
        (8064, "nan..", "write a range in seconds, such as 0.2..0.4"),
        (8064, "some", "write a range in seconds"),
        (8064, "0.2", "`gap` '0.2': write a range in seconds"),
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
