"""Models that are given the spectrogram of a sound at a lower resolution, alone and after a model of such sounds."""

from functools import partial

import numpy
import pytest
import soundfile
import torch

import diffcore as dc
from diffcore import cli
from diffcore.denoising.conditions.coarse_condition import enlarging_condition
from diffcore.errors import UserError
from diffcore.states.noise import Draws
from diffcore_audio.codec import SoundCodec
from diffcore_audio.data.datasets import drums
from diffcore_audio.options import DrumsOptions, SoundOptions
from diffcore_audio.signals import representations
from tests.support import refusals

SECONDS = 0.255
LARGE = DrumsOptions(sounds=4, seconds=SECONDS, upscale=2, upscale_noise=0.5)
SMALL = DrumsOptions(sounds=4, seconds=SECONDS, bands=32, hop=256)


@pytest.fixture(scope="module")
def data():
    return drums(LARGE)


def test_the_coarse_spectrogram_is_that_of_a_model_with_fewer_bands_and_longer_hops(data):
    """The spectrograms of the data set with these options, made by another codec, are the values to compare with."""
    codec, small = SoundCodec(data.facts), drums(SMALL)
    assert small.facts.samples == data.facts.samples
    expected = SoundCodec(small.facts).encode(small.examples).state
    encoded = codec.encode(data.examples)
    assert expected.shape[2:] == (32, 16)
    assert encoded.state.shape[2:] == (64, 32)
    torch.testing.assert_close(encoded.conditions["coarse"], codec.conditions[-1].values(expected))
    noisy = codec.encode(data.examples, Draws.of(0, range(len(data.examples)))).conditions["coarse"]
    std = noisy[:, -1:, :1, :1]
    eps = (noisy[:, :-1] - expected) / std
    assert std.min() >= 0
    assert std.max() <= 0.5
    assert eps.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("seconds", [0.05, 0.5, 0.51, 0.6, 1.0])
def test_a_model_of_small_sounds_can_have_the_length_of_one_that_enlarges(seconds, factor):
    """With fewer bands, longer hops and the same seconds, both spectrograms have whole multiples of 16 columns."""
    large = SoundOptions(seconds=seconds, upscale=factor)
    samples = representations.length(large)
    small = SoundOptions(seconds=samples / large.rate, bands=64 // factor, hop=128 * factor)
    assert representations.length(small) == samples
    assert representations.unfitted(small) == representations.unfitted(large.smaller)
    assert samples // large.step + 1 == factor * (samples // small.step + 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, few_pictures):
    """The folders of a run of small sounds and of one that enlarges them, both after one step."""
    folder = tmp_path_factory.mktemp("stages")
    common = {
        "denoiser": {"width": 8, "multipliers": (1,), "patch": 4},
        "train": {"steps": 1, "batch_size": 4, "evaluate": 0},
        "sample": {"steps": 2},
    }
    other = SMALL.model_copy(update={"sounds": 5})  # its mean and standard deviation differ
    for name, options in (("small", other), ("large", LARGE)):
        given = options.model_dump(include=options.model_fields_set)
        dc.train("audio", data={"name": "drums", **given}, **common, out=folder / name)
    return folder


def test_a_model_of_small_sounds_and_one_that_enlarges_draw_together(runs, tmp_path):
    """States of the small model pass exactly; those of another one through their waveforms."""
    out = tmp_path / "both"
    then = ("--then", runs / "large", "--n", "2", "--steps", "2", "--out", out)
    assert cli.main(["sample", *map(str, (runs / "small", *then))]) == 0
    large = dc.load(runs / "large")
    small = dc.load(runs / "small").sample(2, steps=2)
    conditions = large.conditions_of(small)
    condition = enlarging_condition(large.model.codec.conditions)
    own, given = (each.facts.codec for each in (small.codec, condition))
    log_mel = conditions["coarse"][:, :1] * given.std + given.mean
    torch.testing.assert_close(log_mel, small.state * own.std + own.mean)
    assert sorted(conditions) == ["coarse", "label"]
    drawn = large.sample(2, conditions=conditions).decoded
    written = [torch.from_numpy(soundfile.read(path)[0]) for path in sorted(out.glob("*.wav"))]
    torch.testing.assert_close(torch.stack(written).float(), drawn[:, 0], rtol=0, atol=1e-3)
    longer = dc.load(runs / "small").sample(2, steps=2, size=0.5)
    with pytest.raises(UserError, match=r"4080 samples at 16000 Hz, not 8000 samples"):
        large.conditions_of(longer)
    whole = large.sample(2, steps=2)
    again = large.conditions_of(whole)["coarse"][:, :1]
    torch.testing.assert_close(again, condition.representation.state(whole.decoded))


def test_the_coarse_spectrogram_of_a_file_is_taken(runs, data, tmp_path):
    waveform = data.examples["waveform"][0, 0].numpy()
    longer = numpy.concatenate([waveform, numpy.zeros(100, numpy.int16)])
    soundfile.write(tmp_path / "drum.wav", longer, 16_000, subtype="PCM_16")
    large = dc.load(runs / "large")
    found = large.model.codec.conditions[-1].parse(str(tmp_path / "drum.wav"), range(3), 0)
    expected = large.model.codec.encode(data.examples[:1]).conditions["coarse"]
    assert found.shape == (3, *expected.shape[1:])
    torch.testing.assert_close(found[2:], expected, rtol=0, atol=0.05)  # the end is faded out


def test_what_cannot_be_enlarged_is_refused(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dc.Run, "sample", lambda *a, **k: pytest.fail("a small sound was drawn"))
    refused = partial(refusals.refused, capsys)
    then = ("sample", runs / "small", "--then", runs / "large")
    assert "--write: bits: input should be '16', '24' or 'float'" in refused(*then, "--write.bits", "20")
    sample = ("sample", runs / "large", "--n", 1)
    (tmp_path / "text.wav").write_text("text")
    assert "none.wav cannot be used: missing" in refused(*sample, "--condition", f"coarse={tmp_path / 'none.wav'}")
    assert "text.wav cannot be used: cannot be" in refused(*sample, "--condition", f"coarse={tmp_path / 'text.wav'}")
    assert "small does not enlarge samples" in refused(*sample, "--then", runs / "small")
    large = dc.load(runs / "large").model.codec
    other = SoundCodec(drums(SMALL.model_copy(update={"seconds": 0.5})).facts)
    with pytest.raises(UserError, match=r"enlarges sounds of 4080 samples at 16000 Hz, not .*`data.seconds` 0.255"):
        large.require_smaller(other)
    assert "--size 1: a model that enlarges draws sounds of the length of its training" in refused(*sample, "--size", 1)
    train = ("train", "--modality", "audio", "--data.upscale")
    assert "--data.upscale 3: it must be a whole number from 2 on that divides the number of frequency bands, " in (
        refused(*train, 3)
    )
    assert "--data.upscale needs --data.codec mel" in refused(*train, 2, "--data.codec", "complex")
