"""The commands as a user types them, on the synthesised drums and on a folder of sounds."""

import json
import re
from functools import partial
from types import SimpleNamespace

import numpy
import pytest
import soundfile
import torch

from diffcore.api.run import Run
from diffcore.cli import main
from diffcore.evaluation.samples import _real
from diffcore_audio.codec import SoundCodec
from diffcore_audio.data import datasets
from diffcore_audio.options import DrumsOptions
from diffcore_audio.signals import vocoders
from tests.support.refusals import refused

TINY = ("--denoiser.width", 8, "--denoiser.multipliers", 1, 2, "--denoiser.patch", 8)
QUICK = ("--train.steps", 4, "--train.batch-size", 4, "--train.log-every", 2, "--sample.steps", 2)


def train(out, *flags):
    arguments = ("train", "--modality", "audio", "--out", out, *TINY, *QUICK, "--train.evaluate", 0, *flags)
    assert main([str(word) for word in arguments]) == 0
    return out


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Two iterations for the phases instead of 16: nothing here depends on the phases, which `test_phases` tests."""
    patch = pytest.MonkeyPatch()
    patch.setattr(vocoders, "spectral", partial(vocoders.spectral, iterations=2))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "drums", "--data.sounds", 12)


def test_a_run_samples_sounds_of_the_requested_class(run, tmp_path):
    assert main(["sample", str(run), "--n", "3", "--label", "kick", "--out", str(tmp_path / "kicks")]) == 0
    files = sorted(path.name for path in (tmp_path / "kicks").iterdir())
    assert files == ["0000-kick.wav", "0001-kick.wav", "0002-kick.wav", "overview", "recipe.json"]
    waveform, rate = soundfile.read(tmp_path / "kicks" / "0000-kick.wav")
    assert (rate, len(waveform)) == (16_000, 128 * 63)
    assert 0 < numpy.abs(waveform).max() <= 1


def test_the_form_of_files_is_chosen_by_flags(run, tmp_path, capsys):
    wished = ["sample", str(run), "--n", "2", "--write.format=flac", "--write.bits", "24", "--out", str(tmp_path / "a")]
    assert main(wished) == 0
    assert soundfile.info(tmp_path / "a" / "0000-kick.flac").subtype == "PCM_24"
    assert json.loads((tmp_path / "a" / "recipe.json").read_text())["recipe"]["write"] == {
        "format": "flac",
        "bits": "24",
    }
    line = refused(capsys, *wished[:4], "--write.bits", "20", "--out", str(tmp_path / "b"))
    assert "--write: bits: input should be '16', '24' or 'float' (it is '20')" in line
    line = refused(capsys, *wished[:4], "--write.gian", "20", "--out", str(tmp_path / "b"))
    assert "perhaps you meant gain" in line
    assert not (tmp_path / "b").exists()
    Run(run).sample(2).save(tmp_path / "c", {"bits": "float", "gain": -6})
    assert soundfile.info(tmp_path / "c" / "0000-kick.wav").subtype == "FLOAT"


def test_a_run_samples_sounds_of_another_length(run, tmp_path, capsys):
    assert main(["sample", str(run), "--n", "1", "--size", "1.2", "--out", str(tmp_path / "long.wav")]) == 0
    assert soundfile.info(tmp_path / "long.wav").frames == 19_200
    assert "the model was trained on sounds of 0.504 s" in capsys.readouterr().err
    line = refused(capsys, "sample", run, "--n", 1, "--size", "7..9", "--out", tmp_path / "b.wav")
    assert "--size '7..9': write a number of seconds, such as 2.5" in line


def test_a_gap_of_a_file_is_filled_in_and_the_rest_is_kept_bit_for_bit(run, tmp_path, capsys):
    generator = numpy.random.default_rng(0)
    mine = (8000 * generator.uniform(-1, 1, 12_000)).astype(numpy.int16)
    soundfile.write(tmp_path / "mine.wav", mine, 16_000)
    edit = ["sample", run, "--n", 2, "--label", "kick", "--inpaint", tmp_path / "mine.wav"]
    assert main([str(word) for word in (*edit, "--gap", "0.25..0.5", "--out", tmp_path / "filled")]) == 0
    for name in ("0000-kick.wav", "0001-kick.wav"):
        found, _ = soundfile.read(tmp_path / "filled" / name, dtype="int16")
        same = found == mine
        assert same[: 4000 - 80].all()
        assert same[8000 + 80 :].all()
        assert same[4000:8000].mean() < 0.1
    soundfile.write(tmp_path / "mine.wav", mine[:8000], 16_000)
    assert main([str(word) for word in (*edit, "--size", 0.75, "--out", tmp_path / "longer")]) == 0
    found, _ = soundfile.read(tmp_path / "longer" / "0000-kick.wav", dtype="int16")
    assert len(found) == 12_000
    assert numpy.array_equal(found[: 8000 - 80], mine[: 8000 - 80])
    line = refused(capsys, *edit, "--gap", "0.1..0.9", "--out", tmp_path / "none")
    assert "--gap 0.1..0.9: it must begin before it ends, within the 0.504 s of the sound" in line
    assert "--gap belongs to --inpaint FILE" in refused(capsys, *edit[:4], "--gap", "0.1..0.9")
    line = refused(capsys, *edit, "--gap", "0.1..0.2", "--mask", tmp_path / "mine.wav")
    assert "--gap and --mask are two ways" in line


def test_the_report_plays_samples_without_a_network(run):
    page = (run / "report.html").read_text()
    assert page.count("<audio") >= 6
    assert 'src="http' not in page
    shown = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", page)
    assert shown[:4] == ["0 kick", "real, as 0 kick", "1 snare", "real, as 1 snare"]


def test_real_sounds_in_the_report_have_the_classes_of_the_samples_and_are_held_out():
    data = datasets.drums(DrumsOptions(sounds=20))
    model = SimpleNamespace(codec=SoundCodec(data.facts))
    label = torch.tensor([5, 0, 0, 5, 6, 0])  # 6 is no class
    real = _real(model, data, {"label": label}, 6)()
    rows = [(data.held_out["waveform"].float() / 32768 == wave).flatten(1).all(1).nonzero().item() for wave in real]
    found = data.held_out["label"][rows]
    assert found[label < 6].tolist() == label[label < 6].tolist()
    assert rows[0] != rows[3]  # another one of the class
    assert rows[1] == rows[5] != rows[2]  # the first of two again
    assert _real(SimpleNamespace(codec=object()), data, {"label": label}, 6) is None


def test_a_run_resumes(run, capsys):
    assert main(["resume", str(run), "--train.steps", "6"]) == 0
    steps = [json.loads(line)["step"] for line in (run / "train_log.jsonl").read_text().splitlines()]
    assert steps[-1] == 6


@pytest.mark.parametrize("codec", ["mel", "complex"])
def test_training_on_a_folder(tmp_path, codec, capsys):
    generator = numpy.random.default_rng(0)
    for name, pitch in (("high", 2000), ("low", 200)):
        for index in range(8):
            rate = (8000, 22_050)[index % 2]
            time = numpy.arange(rate // 4) / rate
            tone = 0.5 * numpy.sin(2 * numpy.pi * pitch * (1 + 0.1 * generator.random()) * time)
            (tmp_path / "own" / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "own" / name / f"{index}.wav", tone, rate)
    data = ("--data", "folder", "--data.root", tmp_path / "own", "--data.seconds", 0.25, "--data.codec", codec)
    run = train(tmp_path / "run", *data)
    assert main(["sample", str(run), "--n", "4", "--out", str(tmp_path / "all.flac")]) == 0
    assert soundfile.info(str(tmp_path / "all.flac")).samplerate == 16_000
    capsys.readouterr()
    assert main(["evaluate", str(run), "--n", "6", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert {"class_agreement", "frechet_distance_real", "silence_rate", "copies_real"} <= metrics.keys()


def test_a_heap_of_sounds_is_trained_by_the_preset(tmp_path, capsys):
    """The preset guides towards classes, and a heap has none."""
    (tmp_path / "heap").mkdir()
    for index in range(8):
        tone = 0.5 * numpy.sin(2 * numpy.pi * 200 * (1 + index) * numpy.arange(4000) / 16_000)
        soundfile.write(tmp_path / "heap" / f"{index}.wav", tone, 16_000)
    (tmp_path / "heap" / "other.m4a").write_bytes(b"x")
    run = train(tmp_path / "run", "--data", "folder", "--data.root", tmp_path / "heap")
    said = capsys.readouterr().err
    assert "these data have no conditions, such as classes, so guidance" in said
    assert "files that end in .m4a, which are not read (convert them to WAV or FLAC" in said
    assert json.loads((run / "config.json").read_text())["settings"]["sample"]["guidance"] == 1
    assert main(["sample", str(run), "--n", "2", "--out", str(tmp_path / "out.flac")]) == 0


def test_mistakes_get_a_line(tmp_path, capsys, run):
    command = ("train", "--modality", "audio", "--out", tmp_path / "out", "--data", "folder")
    (tmp_path / "empty").mkdir()
    assert "no sounds under" in refused(capsys, *command, "--data.root", tmp_path / "empty")
    assert "--data.root" in refused(capsys, *command)
    assert not (tmp_path / "out").exists()
    assert "a.wav cannot be used: missing" in refused(capsys, "sample", run, "--inpaint", tmp_path / "a.wav")
    assert "cymbal" in refused(capsys, "sample", run, "--label", "cymbal")
