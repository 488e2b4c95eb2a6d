import math
import os
import shutil
import wave

import numpy
import pytest
import soundfile
import torch
from torchaudio.transforms import MelSpectrogram

from diffcore.errors import UserError
from diffcore_audio.data import datasets, files, synthesis
from diffcore_audio.options import DrumsOptions, FolderOptions, SpeechOptions
from diffcore_audio.signals.resampling import resampled

RATE = 16_000
LENGTH = 8064


def folder(root, **options):
    return datasets.folder(FolderOptions(root=str(root), **options))


def sine(frequency, seconds=0.4, rate=RATE, level=0.5):
    return level * numpy.sin(2 * numpy.pi * frequency * numpy.arange(round(seconds * rate)) / rate)


def frequency(waveform, rate=RATE):
    """The peak of the spectrum, in Hz, between the points of a padded transform."""
    spectrum = numpy.abs(numpy.fft.rfft(waveform * numpy.hanning(len(waveform)), 1 << 17))
    return numpy.argmax(spectrum) * rate / (1 << 17)


@pytest.fixture(scope="module")
def drums():
    return {name: synthesis.synthesise(name, 40, LENGTH, RATE, 0) for name in synthesis.INSTRUMENTS}


def test_the_pitch_of_a_kick_falls_as_its_parameters_say():
    """Compared with a sine whose phase is the integral of the frequency; the click has decayed after 40 ms."""
    rng = numpy.random.default_rng(0)
    time = numpy.arange(LENGTH)[None] / RATE * numpy.ones((20, 1))
    kicks = synthesis.kick(rng, 20, time)
    for waveform, pitch, start, sweep, decay in zip(
        kicks.waveform, *(kicks.parameters[name] for name in ("pitch", "start", "sweep", "decay")), strict=True
    ):
        falling = pitch + (start - pitch) * numpy.exp(-time[0] / sweep)
        turns = numpy.concatenate([[0], numpy.cumsum((falling[1:] + falling[:-1]) / 2) / RATE])
        body = numpy.sin(2 * numpy.pi * turns) * numpy.exp(-time[0] / decay)
        numpy.testing.assert_allclose(waveform[640:], body[640:], atol=1e-3)
        assert 42 <= pitch <= 70
        assert frequency((waveform * numpy.exp(time[0] / decay))[3200:]) == pytest.approx(pitch, abs=1)


def test_tones_decay_with_their_time_constant():
    """The logarithm of the envelope is linear in time with slope -1 / decay."""
    rng = numpy.random.default_rng(0)
    time = numpy.arange(LENGTH)[None] / RATE * numpy.ones((20, 1))
    cowbells = synthesis.cowbell(rng, 20, time)
    window = round(0.02 * RATE)
    for waveform, decay in zip(cowbells.waveform, cowbells.parameters["decay"], strict=True):
        power = numpy.convolve(waveform**2, numpy.ones(window) / window, "valid")
        middle = slice(round(0.06 * RATE), round(0.35 * RATE))  # the fast decay, 12 ms, is over
        slope = numpy.polyfit(numpy.arange(len(power))[middle] / RATE, numpy.log(power[middle]) / 2, 1)[0]
        assert -1 / slope == pytest.approx(decay, rel=0.1)


def test_cowbells_have_two_tones_and_toms_two_modes():
    rng = numpy.random.default_rng(0)
    time = numpy.arange(LENGTH)[None] / RATE * numpy.ones((8, 1))
    for name, ratio in (("cowbell", None), ("tom", synthesis.MEMBRANE)):
        made = synthesis.INSTRUMENTS[name](rng, 8, time)
        for k in range(8):
            pitch = made.parameters["pitch"][k]
            second = pitch * (ratio or made.parameters["interval"][k])
            if name == "cowbell":
                low = numpy.abs(numpy.fft.rfft(made.waveform[k] * numpy.hanning(LENGTH)))
                hertz = numpy.fft.rfftfreq(LENGTH, 1 / RATE)
                loudest = hertz[numpy.argsort(numpy.where(hertz < 2 * pitch, low, 0))[-6:]]
                assert {min((pitch, second), key=lambda f: abs(f - heard)) for heard in loudest} == {pitch, second}
                assert all(min(abs(heard - pitch), abs(heard - second)) < 5 for heard in loudest)
            else:  # after the bend
                assert frequency(made.waveform[k][4000:]) == pytest.approx(pitch, rel=0.03)


def test_claps_come_in_bursts():
    rng = numpy.random.default_rng(0)
    time = numpy.arange(LENGTH)[None] / RATE * numpy.ones((200, 1))
    claps = synthesis.clap(rng, 200, time)
    spacing = claps.parameters["spacing"]
    begins = [(time[0] >= n * s) & (time[0] < n * s + 0.001) for n in range(3) for s in spacing]
    before = [(time[0] >= n * s - 0.001) & (time[0] < n * s) for n in range(1, 3) for s in spacing]
    power = claps.waveform**2
    loud = numpy.mean([power[k % 200][where].mean() for k, where in enumerate(begins)])
    quiet = numpy.mean([power[k % 200][where].mean() for k, where in enumerate(before)])
    decayed = numpy.exp(-2 * (spacing.mean() - 0.001) / 0.004)
    assert quiet / loud < 3 * decayed


def test_every_drum_has_its_onset_and_level(drums):
    for name, sounds in drums.items():
        peaks = abs(sounds.waveform).max(1)
        numpy.testing.assert_allclose(peaks, sounds.parameters["level"], rtol=1e-5, err_msg=name)
        assert 10 ** (-14 / 20) <= peaks.min() < peaks.max() <= 10 ** (-1 / 20)
        begins = numpy.argmax(sounds.waveform != 0, axis=1) / RATE
        numpy.testing.assert_allclose(begins, sounds.parameters["onset"], atol=2.1 / RATE, err_msg=name)
        assert abs(sounds.waveform[:, -1]).max() < 0.01
        assert numpy.isfinite(sounds.waveform).all()


def test_brightness_fits_the_instruments(drums):
    """Spectral centroid: a kick is below 150 Hz, a hi-hat above 4 kHz, and the others are between, in this order."""

    def centre(sounds):
        power = numpy.abs(numpy.fft.rfft(sounds.waveform)) ** 2
        return numpy.median(power @ numpy.fft.rfftfreq(LENGTH, 1 / RATE) / power.sum(1))

    centres = {name: centre(sounds) for name, sounds in drums.items()}
    assert centres["kick"] < 150
    assert centres["hihat"] > 4000
    assert sorted(centres, key=centres.get) == ["kick", "tom", "cowbell", "clap", "snare", "hihat"]


def test_drums_can_be_distinguished():
    """The nearest training sound, by its levels in bands over time, is of the same instrument."""
    data = datasets.drums(DrumsOptions(sounds=80))

    mel = MelSpectrogram(RATE, 1024, hop_length=128, n_mels=32)

    def features(examples):
        power = mel(examples["waveform"].float() / 32768)
        return torch.nn.functional.adaptive_avg_pool2d(power, (32, 16)).add(1e-3).log().flatten(1)

    nearest = torch.cdist(features(data.held_out), features(data.examples)).argmin(1)
    right = data.examples["label"][nearest] == data.held_out["label"]
    assert right.double().mean() > 0.93
    assert data.held_out["label"].bincount().tolist() == [8] * 6


def test_drums_depend_on_the_seed_alone():
    one, again, other = (datasets.drums(DrumsOptions(sounds=5, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one.examples["waveform"], again.examples["waveform"])
    assert not torch.equal(one.examples["waveform"], other.examples["waveform"])
    assert one.examples["waveform"].shape == (27, 1, LENGTH)
    assert (one.facts.rate, one.facts.samples) == (RATE, LENGTH)


@pytest.fixture
def sound_folder(tmp_path):
    """Two classes of ten sines each, in several formats and rates."""
    root = tmp_path / "sounds"
    kinds = [(8000, "wav"), (11_025, "flac"), (16_000, "wav"), (22_050, "ogg"), (44_100, "wav"), (48_000, "aiff")]
    for index, (name, pitch) in enumerate((("high", 1500), ("low", 300))):
        (root / name).mkdir(parents=True)
        for number in range(10):
            rate, ending = kinds[(number + index) % len(kinds)]
            soundfile.write(root / name / f"{number}.{ending}", sine(pitch + number, rate=rate), rate)
    return root


def test_a_folder_of_many_formats_and_rates(sound_folder):
    """A sine keeps its frequency and level at every rate, and the end is silence."""
    data = folder(sound_folder)
    assert data.facts.classes == ("high", "low")
    assert (len(data.examples), len(data.held_out)) == (18, 2)
    assert data.notes == ()
    heard = []
    for part in (data.examples, data.held_out):
        for waveform, label in zip(part["waveform"][:, 0].double().numpy() / 32768, part["label"], strict=True):
            assert numpy.sqrt((waveform[800:5600] ** 2).mean()) == pytest.approx(0.5 / math.sqrt(2), rel=0.02)
            assert abs(waveform[6410:]).max() < 0.02
            heard.append((int(label), round(frequency(waveform[:6400]), 0)))
    assert sorted(heard) == sorted((k, pitch + n) for k, pitch in enumerate((1500, 300)) for n in range(10))


def test_files_with_the_rate_of_the_data_are_unchanged(tmp_path):
    stored = numpy.random.default_rng(0).integers(-20_000, 20_000, LENGTH).astype(numpy.int16)
    soundfile.write(tmp_path / "a.wav", stored, RATE)
    soundfile.write(tmp_path / "b.flac", stored[:5000], RATE)
    waveform = folder(tmp_path).examples["waveform"]
    assert torch.equal(waveform[0, 0], torch.from_numpy(stored))
    assert torch.equal(waveform[1, 0, :5000], torch.from_numpy(stored[:5000]))
    assert (waveform[1, 0, 5000:] == 0).all()
    assert folder(tmp_path).facts.classes == ()


def test_stereo_is_mixed_or_kept(tmp_path):
    left, right = sine(400), sine(900, level=0.3)
    soundfile.write(tmp_path / "a.wav", numpy.stack([left, right], 1), RATE, "FLOAT")
    soundfile.write(tmp_path / "b.wav", left, RATE, "FLOAT")
    mixed = folder(tmp_path, trim=False).examples["waveform"][0, 0, :6400].numpy() / 32768
    numpy.testing.assert_allclose(mixed, (left + right) / 2, atol=1e-4)
    data = folder(tmp_path, channels=2, trim=False)
    kept = data.examples["waveform"][:, :, :6400].numpy() / 32768
    numpy.testing.assert_allclose(kept[0], [left, right], atol=1e-4)
    numpy.testing.assert_allclose(kept[1], [left, left], atol=1e-4)
    assert data.facts.channels == 2


def test_initial_silence_is_cut_and_a_long_sound_fades_out(tmp_path):
    late = numpy.concatenate([numpy.full(3000, 2e-4), sine(1000, 2.0)])
    soundfile.write(tmp_path / "a.wav", late, RATE, "FLOAT")
    trimmed = folder(tmp_path).examples["waveform"][0, 0].numpy() / 32768
    assert numpy.argmax(abs(trimmed) > 0.1) <= 4
    numpy.testing.assert_allclose(trimmed[:-80], late[3001 : 3001 + LENGTH - 80], atol=1e-4)
    numpy.testing.assert_allclose(  # 5 ms
        trimmed[-80:],
        late[3001 + LENGTH - 80 : 3001 + LENGTH] * numpy.sin(numpy.linspace(numpy.pi / 2, 0, 80)),
        atol=1e-4,
    )
    left = folder(tmp_path, trim=False).examples["waveform"][0, 0].numpy() / 32768
    numpy.testing.assert_allclose(left[:-80], late[: LENGTH - 80], atol=1e-4)


def test_sounds_beyond_full_scale_are_scaled_down_as_a_whole(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(500, level=1.6), RATE, "FLOAT")
    waveform = folder(tmp_path, trim=False).examples["waveform"][0, 0, :6400].numpy() / 32768
    numpy.testing.assert_allclose(waveform, sine(500, level=1.0), atol=2e-3)


def test_odd_rates_do_not_need_large_tables(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(1000, rate=44_101), 44_101)
    assert frequency(folder(tmp_path).examples["waveform"][0, 0, :6400].numpy()) == pytest.approx(1000, abs=0.5)


def test_lengths_rates_and_limits_are_options(sound_folder):
    data = folder(sound_folder, rate=8000, seconds=1.0, limit=4)
    assert (len(data.examples), data.held_out) == (8, None)  # 0.1 of 8 is not two
    assert data.facts.samples == 127 * 64
    assert frequency(data.examples["waveform"][0, 0, :3200].numpy(), 8000) == pytest.approx(1500, abs=1)


def write_damaged_files(root):
    """A folder in which six of nine files cannot be used."""
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    for number in range(3):
        soundfile.write(root / "a" / f"good{number}.wav", sine(300 + number), RATE)
    (root / "a" / "noise.wav").write_bytes(b"not a sound at all")
    (root / "a" / "nothing.flac").write_bytes(b"")
    whole = (root / "a" / "good0.wav").read_bytes()
    (root / "b" / "half.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(root / "b" / "nan.wav", numpy.array([0.1] * 999 + [numpy.nan]), RATE, "FLOAT")
    soundfile.write(root / "b" / "inf.wav", numpy.array([0.1] * 999 + [numpy.inf]), RATE, "FLOAT")
    soundfile.write(root / "b" / "short.wav", sine(1000, 0.004), RATE)
    soundfile.write(root / "b" / "only.wav", sine(1000), RATE)


def test_files_that_cannot_be_used_are_named(tmp_path):
    write_damaged_files(tmp_path / "s")
    with pytest.raises(UserError) as caught:
        folder(tmp_path / "s")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"6 of the 10 sounds under {tmp_path / 's'} cannot be used: ")
    for told in (
        "a/noise.wav (cannot be read: Format not recognised)",
        "a/nothing.flac (cannot be read: Format not recognised)",
        "b/half.wav (truncated)",
        "b/nan.wav (contains values that are not finite)",
        "b/inf.wav (contains values that are not finite)",
        "b/short.wav (shorter than 5 ms)",
    ):
        assert told in line
    assert "`data.skip_unreadable`" in line
    data = folder(tmp_path / "s", skip_unreadable=True)
    assert len(data.examples) == 4
    assert data.ledger.passed_over["truncated"] == ("b/half.wav",)
    assert sum(map(len, data.ledger.passed_over.values())) == 6
    assert data.notes == ("classes with only one training example: b",)


def test_many_unusable_files_are_counted(tmp_path):
    for number in range(14):
        (tmp_path / f"{number:02d}.wav").write_bytes(b"x")
    soundfile.write(tmp_path / "good.wav", sine(300), RATE)
    with pytest.raises(UserError, match=r"14 of the 15 sounds .* 09.wav|14 of the 15 sounds .* and 4 more; fix"):
        folder(tmp_path)


def test_a_truncated_flac_is_found(tmp_path):
    soundfile.write(tmp_path / "a.flac", numpy.random.default_rng(0).uniform(-0.5, 0.5, 16_000), RATE)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a.flac"):
        folder(tmp_path)


def test_wav_files_of_unknown_length_are_read(tmp_path):
    """Programs that write to a pipe cannot write the size into the header afterwards."""
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((sine(300) * 32767).astype("<i2").tobytes())
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    assert frequency(folder(tmp_path).examples["waveform"][0, 0, :6400].numpy()) == pytest.approx(300, abs=1)


def test_silent_and_clipped_sounds_are_noted(tmp_path):
    for number in range(4):
        soundfile.write(tmp_path / f"good{number}.wav", sine(300 + number), RATE)
    soundfile.write(tmp_path / "silent.wav", sine(300, level=0.0009), RATE)
    soundfile.write(tmp_path / "quiet.wav", sine(300, level=0.0015), RATE)
    soundfile.write(tmp_path / "against.wav", numpy.stack([sine(300), -sine(300)], 1), RATE)
    soundfile.write(tmp_path / "clipped.wav", numpy.clip(2 * sine(300, level=1.0), -1, 1), RATE)
    soundfile.write(tmp_path / "peak.wav", numpy.append(sine(300), [1.0]), RATE)
    data = folder(tmp_path)
    assert len(data.examples) == 8
    assert data.ledger.passed_over == {"silent (below -60 dB)": ("silent.wav",)}
    assert data.ledger.noted == {"clipped: more than 0.1 % of their values are at full scale": ("clipped.wav",)}
    assert data.ledger.changed["the 2 channels cancel each other when they are mixed, so only one was used"] == (
        "against.wav",
    )
    for path in tmp_path.glob("*.wav"):
        soundfile.write(path, numpy.zeros(4000), RATE)
    with pytest.raises(UserError, match=r"none of the 9 sounds under .* can be used: 9 silent"):
        folder(tmp_path)


def test_a_class_of_one_sound_is_trained_on_and_noted(tmp_path):
    for name, count in (("many", 30), ("one", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            soundfile.write(tmp_path / name / f"{number}.wav", sine(300 + number), RATE)
    data = folder(tmp_path)
    assert data.examples["label"].bincount().tolist() == [27, 1]
    assert data.held_out["label"].bincount().tolist() == [3]
    assert data.notes == ("classes with only one training example: one", "classes without a held-out example: one")


def test_train_and_test_folders_are_used(tmp_path, sound_folder):
    for part in ("train", "test"):
        (tmp_path / "parted" / part).mkdir(parents=True)
    for name in ("high", "low"):
        (tmp_path / "parted" / "train" / name).symlink_to(sound_folder / name)
        shutil.copytree(sound_folder / name, tmp_path / "parted" / "test" / name)
    data = folder(tmp_path / "parted")
    assert (len(data.examples), len(data.held_out)) == (20, 20)
    (tmp_path / "parted" / "test" / "low").rename(tmp_path / "low")
    assert folder(tmp_path / "parted").notes == ("classes without a held-out example: low",)
    (tmp_path / "low").rename(tmp_path / "parted" / "test" / "middle")
    with pytest.raises(UserError, match=r"the test folders have classes that the train folders lack: middle"):
        folder(tmp_path / "parted")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda root: None, "no folder"),
        (lambda root: root.mkdir(), "no sounds under .* empty"),
        (lambda root: (root.mkdir(), (root / "a.asd").write_text("x")), "no sounds under .* 1 of .asd"),
    ],
    ids=["missing", "empty", "other endings"],
)
def test_a_folder_without_sounds_is_refused_in_a_line(tmp_path, prepare, said):
    prepare(tmp_path / "root")
    with pytest.raises(UserError, match=said) as caught:
        folder(tmp_path / "root")
    assert "\n" not in str(caught.value)


def test_recorded_drums_are_read(real_data):
    data = folder(real_data / "drums", rate=8000)
    assert len(data.facts.classes) == 11
    assert len(data.examples) + len(data.held_out) > 450


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "yes")


def write_speech_commands(root):
    """The official layout: five speakers for each word, one of them in the test list and one in the validation list."""
    place = root / "SpeechCommands" / "speech_commands_v0.02"
    lists = {"testing_list.txt": "d", "validation_list.txt": "e"}
    for number, word in enumerate((*WORDS, "_background_noise_")):
        (place / word).mkdir(parents=True)
        for speaker in "abcde":
            soundfile.write(place / word / f"{speaker}_nohash_0.wav", sine(200 + 10 * number, 0.9), RATE)
    for name, speaker in lists.items():
        (place / name).write_text("".join(f"{word}/{speaker}_nohash_0.wav\n" for word in WORDS))
    return place


def test_speech_commands_are_read_by_their_own_lists(tmp_path):
    write_speech_commands(tmp_path)
    data = datasets.speech_commands(SpeechOptions(root=str(tmp_path)))
    assert data.facts.classes == tuple(sorted(WORDS))
    assert (len(data.examples), len(data.held_out)) == (33, 11)
    assert data.facts.samples == 128 * 127
    digits = datasets.sc09(SpeechOptions(root=str(tmp_path)))
    assert digits.facts.classes == WORDS[:10]
    assert digits.examples["label"].bincount().tolist() == [3] * 10
    for waveform, label in zip(digits.examples["waveform"][:, 0].numpy(), digits.examples["label"], strict=True):
        assert frequency(waveform[:14_400]) == pytest.approx(200 + 10 * int(label), abs=1)


def test_messages_of_missing_speech_commands_say_how_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"Speech Commands needs `data\.root`, the folder"):
        datasets.sc09(SpeechOptions())
    with pytest.raises(UserError, match=r"Speech Commands is not in .*`data.download`"):
        datasets.sc09(SpeechOptions(root=str(tmp_path)))

    def offline(*arguments, **keywords):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchaudio.datasets.speechcommands.download_url_to_file", offline)
    with pytest.raises(UserError, match=r"could not be downloaded into .*; check the connection"):
        datasets.sc09(SpeechOptions(root=str(tmp_path / "new"), download=True))


def test_links_in_speech_commands_bring_no_held_out_sounds_back(tmp_path):
    place = write_speech_commands(tmp_path)
    (place / "yet").symlink_to("yes")
    (place / "aye").symlink_to("yes")
    (place / "yes" / "l").symlink_to("..")
    (place / "one" / "f_nohash_0.wav").symlink_to("d_nohash_0.wav")
    data = datasets.speech_commands(SpeechOptions(root=str(tmp_path)))
    assert data.facts.classes == tuple(sorted(WORDS))
    assert (len(data.examples), len(data.held_out)) == (33, 11)
    (names,) = [names for reason, names in data.ledger.passed_over.items() if "links" in reason]
    assert len(names) == 11  # five of aye, five of yet, one of one


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bytes(range(256)), "is not in .*decode"),
        (b"yes/name.wav\nyes/a_nohash_x.wav\n", "name.wav .missing."),
        (b"\n\nyes\n", "without training sounds"),
        (None, "testing_list.txt is a folder, a pipe or a device"),
    ],
)
def test_lists_of_speech_commands_that_cannot_be_read(tmp_path, content, said):
    path = write_speech_commands(tmp_path) / "testing_list.txt"
    path.unlink()
    os.mkfifo(path) if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        datasets.speech_commands(SpeechOptions(root=str(tmp_path)))


def test_damaged_speech_commands_are_refused_in_a_line(tmp_path):
    place = write_speech_commands(tmp_path)
    (place / "yes" / "a_nohash_0.wav").write_bytes(b"x")
    (place / "no").mkdir()
    with (place / "testing_list.txt").open("a") as file:
        file.write("one/gone_nohash_3.wav\n")
    with pytest.raises(
        UserError, match=r"2 of the 45 .*gone_nohash_3.wav \(missing\), .*yes/a_nohash_0.wav \(cannot be read: Format"
    ):
        datasets.speech_commands(SpeechOptions(root=str(tmp_path)))
    assert len(datasets.speech_commands(SpeechOptions(root=str(tmp_path), skip_unreadable=True)).examples) == 32
    with (place / "testing_list.txt").open("a") as file:
        file.write("no/gone_nohash_3.wav\n")
    with pytest.raises(UserError, match="words without training sounds: no"):
        datasets.speech_commands(SpeechOptions(root=str(tmp_path)))
    for path in (place / "nine").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no training sounds of nine; download"):
        datasets.sc09(SpeechOptions(root=str(tmp_path)))
    (place / "testing_list.txt").unlink()
    with pytest.raises(UserError, match=r"is not in .*testing_list.txt"):
        datasets.sc09(SpeechOptions(root=str(tmp_path)))


# Long recordings


def sweep(seconds, rate, channels=1):
    """A tone that becomes higher, so that every moment of it is different."""
    time = numpy.arange(round(seconds * rate)) / rate
    return (0.5 * numpy.sin(2 * numpy.pi * (200 * time + 100 * time**2)))[:, None].repeat(channels, 1)


def pieces_of(tmp_path, **options):
    return datasets.folder(FolderOptions(root=str(tmp_path), seconds=0.25, pieces=1000, held_out=0.2, **options))


def test_a_recording_is_cut_into_pieces_without_gaps(tmp_path):
    soundfile.write(tmp_path / "a.wav", sweep(4, 16_000), 16_000, "PCM_16")
    found = pieces_of(tmp_path)
    length = found.facts.samples
    whole = torch.from_numpy(soundfile.read(tmp_path / "a.wav", dtype="int16")[0])
    every = torch.cat([found.examples["waveform"], found.held_out["waveform"]])[:, 0].flatten()
    count = len(whole) // length
    assert torch.equal(every[: count * length], whole[: count * length])
    assert len(every) // length == count + (len(whole) % length >= length / 2)
    assert len(found.held_out) == len(every) // length // 5


def test_pieces_of_another_rate_fit_together(tmp_path):
    """As if the whole recording had been resampled; a piece alone would be wrong at both of its ends."""
    soundfile.write(tmp_path / "a.wav", sweep(4, 44_100, 2), 44_100, "FLOAT")
    found = pieces_of(tmp_path)
    every = torch.cat([found.examples["waveform"], found.held_out["waveform"]])[:, 0].flatten().float() / 32768
    whole = resampled(torch.from_numpy(soundfile.read(tmp_path / "a.wav", dtype="float32")[0][:, 0]), 44_100, 16_000)
    count = min(len(whole), len(every)) - found.facts.samples
    assert (every[:count] - whole[:count]).abs().max() < 2e-3  # pieces begin on a sample of the file


def test_the_last_pieces_of_each_class_are_held_out_and_silence_is_left_out(tmp_path):
    for name, pause in (("one", 0.0), ("other", 2.0)):
        (tmp_path / name).mkdir()
        wave = numpy.concatenate([sweep(2, 16_000), numpy.zeros((round(pause * 16_000), 1)), sweep(3, 16_000)])
        soundfile.write(tmp_path / name / "a.wav", wave, 16_000)
    found = pieces_of(tmp_path)
    labels = torch.bincount(found.examples["label"]), torch.bincount(found.held_out["label"])
    assert abs(labels[0][0] - labels[0][1]) <= 2
    assert labels[1].tolist() == pytest.approx([4, 4], abs=1)
    last = found.held_out["waveform"][found.held_out["label"] == 0]
    parts = (last[0, 0], found.examples["waveform"][0, 0])
    crossings = [int((part[1:].sign() != part[:-1].sign()).sum()) for part in parts]
    assert crossings[0] > crossings[1]  # a later, higher part of the tone
    assert any("of which silent ones and a short last one are left out" in how for how in found.ledger.changed)


def test_files_that_keep_little_are_noticed(tmp_path):
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", sweep(8, 44_100, 2), 44_100)
    notes = datasets.folder(FolderOptions(root=str(tmp_path))).notes
    assert any("last 0.4 minutes, of which 0.025 are used: `data.pieces` 1000" in note for note in notes)
    wanted = "44100 Hz, stereo, and the model 16000 Hz, mono: `data.rate` 44100 and `data.channels` 2"
    assert any(wanted in note for note in notes)
    kept = datasets.folder(FolderOptions(root=str(tmp_path), pieces=4, rate=44_100, channels=2)).notes
    assert not any("data." in note for note in kept)


def test_a_long_file_is_read_only_as_far_as_it_is_needed(tmp_path, monkeypatch):
    read = []
    plain = soundfile.SoundFile.read

    def counted(file, frames, **options):
        block = plain(file, frames, **options)
        read.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    monkeypatch.setattr(files, "_BLOCK", 1000)
    monkeypatch.setattr(files, "AT_LEAST", 1.0)
    for name, sound in (
        ("loud", sweep(10, 8000)),
        ("late", numpy.concatenate([numpy.zeros((40_000, 1)), sweep(5, 8000)])),
    ):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", sound, 8000)
        read.clear()
        examples = datasets.folder(FolderOptions(root=str(tmp_path / name), rate=8000)).examples
        onset = 40_000 if name == "late" else 0
        assert onset + examples["waveform"].shape[2] <= sum(read) < onset + 8000 * 1.7
        assert examples["waveform"].abs().max() > 10_000
