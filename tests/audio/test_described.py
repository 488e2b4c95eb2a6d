"""Sentences about the synthesised drums, and the judge that measures the same of sounds."""

import numpy
import pytest
import torch

from diffcore.evaluation.attributes import compared
from diffcore.plugins.wordings import UNSAID, read
from diffcore_audio.data.datasets import drums
from diffcore_audio.data.synthesis import INSTRUMENTS, Range, synthesise
from diffcore_audio.described.judge import decay, judge, measured, partial_between, power_below
from diffcore_audio.described.metrics import Heard, prompt_metrics
from diffcore_audio.described.sentences import PARAMETERS, WORDINGS, values_of, write
from diffcore_audio.options import DrumsOptions

RATE, SAMPLES = 16_000, 8064


@pytest.fixture(scope="module")
def made():
    return drums(DrumsOptions(sounds=40, captions=True, held_out=0.4))


def sentences_of(data, part):
    return [[data.texts[number] for number in row] for row in part["captions"].tolist()]


def floats(part):
    return part["waveform"].float() / 32768


def test_a_range_places_its_own_values():
    u = numpy.linspace(0, 1, 7)
    for each in (Range(42, 70), Range(0.02, 0.3, True)):
        numpy.testing.assert_allclose(each.place(each.at(u)), u, atol=1e-12)
    assert Range(1, 100, True).at(numpy.array(0.5)) == pytest.approx(10)


def test_values_are_the_thirds_of_the_ranges_of_parameters():
    toms = synthesise("tom", 400, 2000, RATE, 1)
    values = values_of("tom", toms)
    pitch = torch.from_numpy(toms.parameters["pitch"])
    low, high = 80 * (220 / 80) ** (1 / 3), 80 * (220 / 80) ** (2 / 3)
    assert torch.equal(values["pitch"] == 0, pitch < low)
    assert torch.equal(values["pitch"] == 1, pitch > high)
    assert (values["brightness"] == UNSAID).all()
    assert (values["instrument"] == [*INSTRUMENTS].index("tom")).all()


def test_sentences_say_what_the_values_are():
    generator = torch.Generator().manual_seed(0)
    values = {
        name: torch.cat([torch.arange(-1, len(ways))] * 200) for name, ways in WORDINGS.items() if name != "instrument"
    }
    count = len(values["pitch"])
    values = {"instrument": torch.arange(count) % 6} | {
        name: value[torch.randperm(len(value))][:count] for name, value in values.items()
    }
    found = read(write(values, generator, complete=True), WORDINGS)
    assert all(torch.equal(found[name], values[name]) for name in WORDINGS)
    partly = read(write(values, generator), WORDINGS)
    for name in WORDINGS:
        assert ((partly[name] == values[name]) | (partly[name] == UNSAID)).all()
    assert 0.1 < ((partly["pitch"] == UNSAID) & (values["pitch"] >= 0)).sum() / (values["pitch"] >= 0).sum() < 0.2


def test_a_sentence_can_be_like_those_of_the_page():
    values = {"instrument": [3, 2], "pitch": [0, UNSAID], "length": [1, 0], "brightness": [UNSAID, 1]}
    tensors = {name: torch.tensor(value).repeat(500) for name, value in values.items()}
    written = set(write(tensors, torch.Generator().manual_seed(0)))
    assert {"a low long tom", "a short bright hi-hat", "a hat that is crisp"} <= written


# The judge


def test_what_is_measured_of_tones_and_noise_is_exact():
    time = torch.arange(SAMPLES) / RATE
    tones = torch.stack(
        [torch.sin(2 * torch.pi * f * time) * torch.exp(-time / d) for f, d in ((90, 0.05), (200, 0.15))]
    )
    torch.testing.assert_close(decay(tones, RATE), torch.tensor([0.05, 0.15], dtype=torch.float64), rtol=0.02, atol=0)
    torch.testing.assert_close(partial_between(tones, RATE, 50, 380), torch.tensor([90.0, 200.0]), rtol=0.01, atol=0)
    noise = torch.randn(4, SAMPLES, generator=torch.Generator().manual_seed(0))
    # white noise from 2000 to 8000 Hz has half of its power below 5000
    torch.testing.assert_close(power_below(noise, RATE, 0.5, 2000), torch.full((4,), 5000.0), rtol=0.05, atol=0)


@pytest.mark.parametrize("instrument", [*INSTRUMENTS])
def test_what_is_measured_follows_the_parameters(instrument):
    sounds = synthesise(instrument, 60, SAMPLES, RATE, 4)
    found = measured(torch.from_numpy(sounds.waveform)[:, None], instrument, RATE)
    for attribute, parameter in PARAMETERS[instrument].items():
        value, wanted = found[attribute].numpy(), sounds.parameters[parameter]
        if attribute == "brightness":
            assert numpy.corrcoef(value, wanted)[0, 1] > 0.9
        else:
            numpy.testing.assert_allclose(numpy.median(value / wanted), 1, atol=0.05)
            assert (abs(value / wanted - 1) < 0.25).mean() > 0.95


def test_the_judge_is_right_about_real_sounds(made):
    sentences = [text for (text,) in sentences_of(made, made.held_out)]
    right = compared(read(sentences, WORDINGS), judge(floats(made.held_out), made.held_out["label"], RATE))
    for name, value in right.items():
        assert value.nanmean() >= 0.99, name


def test_silence_and_what_is_not_finite_are_never_right():
    waves = torch.zeros(2, 1, SAMPLES)
    waves[1] = torch.nan
    found = judge(waves, torch.tensor([0, 3]), RATE)
    assert (found["pitch"] == UNSAID).all()
    assert (found["length"] == UNSAID).all()


# The data set


def test_sentences_take_the_place_of_the_classes(made):
    assert made.facts.described
    assert made.facts.classes == ()
    assert {len(each) for each in sentences_of(made, made.examples)} == {2}
    asked = read([text for own in sentences_of(made, made.examples) for text in own], WORDINGS)
    assert torch.equal(asked["instrument"], made.examples["label"].repeat_interleave(2))
    for few in (
        made.held_out["label"][:24],
        made.held_out["label"][::6],
        read(made.texts[:36], WORDINGS)["instrument"],
    ):
        assert few.unique().tolist() == [*range(6)]


def test_short_sounds_are_not_described():
    with pytest.raises(ValueError, match=r"`data.captions` needs sounds of at least 0.3 s"):
        DrumsOptions(captions=True, seconds=0.1)


def test_metrics_of_real_sounds_and_the_control(made):
    sentences = tuple(text for (text,) in sentences_of(made, made.held_out))
    heard = Heard(floats(made.held_out), made.held_out["label"], sentences)
    found = {metric.name: metric for metric in prompt_metrics(heard, heard, "held-out sounds", RATE)}
    assert [*found] == ["prompt_instrument", "prompt_pitch", "prompt_length", "prompt_brightness", "prompt_all"]
    assert found["prompt_all"].value > 97
    assert "held-out sounds with their own" in found["prompt_all"].meaning
    chance = {name: float(each.meaning.split("; ")[1].split()[0]) for name, each in found.items()}
    assert chance["prompt_instrument"] < 35
    assert chance["prompt_all"] < 20
