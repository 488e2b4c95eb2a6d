"""Joint states of sounds and their loudness over time: measures, codec, files, networks and metrics."""

import math

import numpy
import pytest
import soundfile
import torch
from PIL import Image
from tensordict import TensorDict

from diffcore.cli import main
from diffcore.errors import UserError
from diffcore.nn.options import DiTOptions, EncoderOptions, GridAutoencoderOptions
from diffcore_audio.autoencoder import autoencoder
from diffcore_audio.codec import SoundCodec
from diffcore_audio.data.datasets import drums
from diffcore_audio.editing.reader import SoundReader
from diffcore_audio.evaluation.envelopes import envelope_metrics, sound_metrics
from diffcore_audio.networks import dit, encoder
from diffcore_audio.options import DrumsOptions, EnvelopeFacts
from diffcore_audio.output.pictures import CURVE, with_curve
from diffcore_audio.output.writer import SoundWriter
from diffcore_audio.signals.envelopes import envelope, read_text, times

FACTS = EnvelopeFacts(frames=4, floor=-60.0, mean=-30.0, std=10.0)
SMALL = {"sounds": 4, "codec": "complex", "bands": 32, "hop": 32, "seconds": 0.1}


@pytest.fixture(scope="module")
def made():
    return drums(DrumsOptions(**SMALL, joint="envelope", frames=8))


def sine(amplitudes, rate=16000):
    """Sines of 500 Hz, one frame of 0.1 s for each amplitude."""
    time = torch.arange(len(amplitudes) * 1600) / rate
    return torch.tensor(amplitudes).repeat_interleave(1600) * (2 * math.pi * 500 * time).sin()


def test_the_loudness_of_frames_is_that_of_sines():
    waves = torch.stack([sine([1.0, 0.1, 0.0, 0.5]), sine([0.0] * 4)])[None]
    left_alone = 10 * math.log10(0.5)  # the mean over two channels, of which the other is silent
    expected = [-3.0103 + left_alone, -23.0103 + left_alone, -60.0, -9.0309 + left_alone]
    assert envelope(waves, FACTS)[0].tolist() == pytest.approx(expected, abs=1e-3)
    steps = torch.zeros(1, 1, 10)  # frames of 10 samples begin at 0, 2, 5 and 8 (round half to even)
    steps[..., 2:5] = 0.1
    assert envelope(steps, FACTS)[0].tolist() == pytest.approx([-60, -20, -60, -60], abs=1e-4)


def test_states_have_the_sound_and_its_loudness(made):
    codec = SoundCodec(made.facts)
    assert codec.joint == {"sound": ("sound",), "envelope": ("envelope",)}
    state = codec.encode(made.examples).state
    assert state["envelope"].mean().item() == pytest.approx(0, abs=1e-4)
    assert state["envelope"].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    samples, real = codec.decode(state), codec.as_samples(made.examples)
    torch.testing.assert_close(samples["envelope"], real["envelope"], atol=1e-4, rtol=0)
    alone = SoundCodec(made.facts.model_copy(update={"envelope": None}))
    assert torch.equal(samples["waveform"], alone.decode(alone.encode(made.examples).state))


def test_the_network_has_the_form_of_the_state_and_hears_the_other_side(made):
    space = SoundCodec(made.facts).space
    network = dit(DiTOptions(width=16, depth=1, heads=2, patch=4), space)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    x = TensorDict({name: torch.randn(2, *part.shape) for name, part in space.parts.items()}, batch_size=[2])
    level = torch.randn(2, network.width)
    first = network(x, level)
    for side, other in (("sound", "envelope"), ("envelope", "sound")):
        changed = network(x.clone().update({side: x[side] + 1}), level)
        assert first[other].shape == x[other].shape
        assert (changed[other] - first[other]).abs().max() > 1e-3


def test_tables_of_loudness_are_read_and_interpolated(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("seconds;dB\n0.1;-10\n0.3;-50\n")
    assert times(4, 0.4).tolist() == pytest.approx([0.05, 0.15, 0.25, 0.35])
    assert read_text(path, FACTS, 0.4).tolist() == [pytest.approx([-10, -20, -40, -50])]
    path.write_text("-10\n-90\n")  # in the middles of two halves
    assert read_text(path, FACTS, 0.4)[0].tolist() == pytest.approx([-10, -30, -60, -60])
    path.write_text("time,first,second\n0,-1,-2\n1,-1,-2\n")
    assert read_text(path, FACTS, 0.4).tolist() == [[-1.0] * 4, [-2.0] * 4]
    for text, message in (
        ("", "no numbers"),
        ("0,-1\n0,-2\n", "must rise"),
        ("0,-1\n1\n", "different lengths"),
        ("0,-1\na,b\n", "line 2"),
        ("0,nan\n", "not finite"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_text(path, FACTS, 0.4)


def test_files_give_either_side_and_samples_have_a_table_beside_them(made, tmp_path):
    codec = SoundCodec(made.facts)
    state = codec.encode(made.examples[:1]).state
    paths = SoundWriter(codec).each(codec.decode(state), tmp_path, ["a"])
    assert [path.name for path in paths] == ["a.wav"]
    reader = SoundReader(codec)
    from_table = reader.read_side("envelope", tmp_path / "a.csv").values["envelope"]
    torch.testing.assert_close(from_table, state["envelope"], atol=0.01 / made.facts.envelope.std, rtol=0)
    sound, rate = soundfile.read(tmp_path / "a.wav")
    soundfile.write(tmp_path / "half.wav", sound / 2, rate, subtype="FLOAT")
    whole, half = (reader.read_side("envelope", tmp_path / name).values["envelope"] for name in ("a.wav", "half.wav"))
    loud = whole > (6.1 + made.facts.envelope.floor - made.facts.envelope.mean) / made.facts.envelope.std
    assert loud.any()
    assert (whole - half)[loud] * made.facts.envelope.std == pytest.approx(20 * math.log10(2), abs=0.01)
    torch.testing.assert_close(reader.read_side("sound", paths[0]).values["sound"], state["sound"], atol=0.05, rtol=0)


def test_pictures_have_a_curve_from_the_floor_to_full_scale():
    picture = with_curve(Image.new("P", (100, 61)), [CURVE[1], CURVE[1], -30.0, -30.0, -90.0, -90.0])
    white = numpy.asarray(picture).min(2) == 255
    assert [int(white[:, column].argmax()) for column in (15, 50, 85)] == [0, 30, 60]


def test_metrics_by_hand():
    loud = torch.stack([sine([0.5, 0.5, 0.5, 0.5]), sine([0.1, 0.1, 0.1, 0.1])])[:, None]
    real = TensorDict({"waveform": loud, "envelope": envelope(loud, FACTS) - 1.0}, batch_size=[2])
    drawn = TensorDict({"waveform": 2 * loud, "envelope": real["envelope"] + 3.0}, batch_size=[2])
    classes = (torch.tensor([0, 1]), torch.tensor([0, 0]))
    apart = 20 * math.log10(5)
    found = {metric.name: metric.value for metric in sound_metrics(drawn, real, FACTS, classes)}
    assert found["sound_envelope_db"] == pytest.approx(1 + 20 * math.log10(2), abs=1e-3)
    assert found["sound_envelope_db_codec"] == pytest.approx(1, abs=1e-3)
    assert found["sound_envelope_db_shuffled"] == pytest.approx(apart, abs=1e-3)
    assert found["sound_class"] == found["sound_class_shuffled"] == 0.5
    found = {metric.name: metric.value for metric in envelope_metrics(drawn, real, FACTS)}
    assert found["envelope_error_db"] == pytest.approx(3, abs=1e-3)
    assert found["envelope_error_db_shuffled"] == pytest.approx(apart, abs=1e-3)


def test_either_side_is_drawn_given_the_other_by_commands(tmp_path):
    flags = [word for name, value in SMALL.items() for word in (f"--data.{name}", value)]
    network = ("--denoiser", "dit", "--denoiser.width", 16, "--denoiser.depth", 1, "--denoiser.heads", 2)
    run = tmp_path / "run"
    arguments = ("train", "--modality", "audio", "--out", run, *network, "--denoiser.patch", 4, *flags)
    quick = ("--train.steps", 2, "--train.batch-size", 4, "--train.evaluate", 0, "--sample.steps", 2)
    assert main([str(word) for word in (*arguments, *quick, "--data.joint", "envelope", "--data.frames", 8)]) == 0
    (tmp_path / "asked.csv").write_text("time,a,b\n0.0,-10,-20\n0.2,-30,-20\n")
    out = tmp_path / "out"
    assert (
        main(["sample", str(run), "--given", f"envelope={tmp_path / 'asked.csv'}", "--n", "2", "--out", str(out)]) == 0
    )
    tables = sorted(out.glob("*.csv"))
    assert len(tables) == len([*out.glob("*.wav")]) == 4
    levels = [numpy.loadtxt(path, delimiter=",", skiprows=1)[:, 1] for path in tables]
    assert all(numpy.allclose(each, -20, atol=0.01) for each in levels[2:])
    assert all(numpy.allclose(numpy.diff(each), -100 * 0.126 / 8, atol=0.02) for each in levels[:2])
    soundfile.write(tmp_path / "a.wav", sine([0.5]).numpy(), 16000)
    given = f"sound={tmp_path / 'a.wav'}"
    assert main(["sample", str(run), "--given", given, "--n", "1", "--out", str(tmp_path / "one.png")]) == 0


def test_what_envelopes_cannot_be_used_with_is_refused(made, tmp_path):
    codec = SoundCodec(made.facts)
    soundfile.write(tmp_path / "a.wav", sine([0.5]).numpy(), 16000)
    for run, message in (
        (lambda: codec.resized("1.0"), "draws envelopes"),
        (lambda: SoundReader(codec).read_gap(tmp_path / "a.wav", "0.01..0.02"), "with `given`"),
        (lambda: encoder(EncoderOptions(), codec.space, 6), "sees sounds alone"),
        (lambda: autoencoder(GridAutoencoderOptions(), codec), "has no envelopes"),
    ):
        with pytest.raises(UserError, match=message):
            run()
    for options, message in (
        ({"joint": "envelope", "upscale": 2}, "cannot be used with"),
        ({"frames": 16}, "is an option of"),
        ({"joint": "envelope", "frames": 4000, "seconds": 0.1}, "too many"),
    ):
        with pytest.raises(ValueError, match=message):
            DrumsOptions(**options)
