"""Reading of sound files: whole, cut off, damaged, endless."""

import math
import os
import random
import struct
import wave

import numpy
import pytest
import soundfile

from diffcore.plugins.folders import UnusableError
from diffcore_audio.data import files
from diffcore_audio.data.files import read
from diffcore_audio.data.fitting import Format, SilentError, fit

RATE = 16_000
FORMATS = {
    "a.wav": {},
    "extensible.wav": {"format": "WAVEX"},
    "adpcm.wav": {"subtype": "IMA_ADPCM"},
    "rifx.wav": {"endian": "BIG"},
    "a.rf64": {"format": "RF64"},
    "a.w64": {},
    "a.aiff": {},
    "little.aifc": {"format": "AIFF", "endian": "LITTLE"},
    "a.au": {},
    "a.caf": {},
    "alac.caf": {"subtype": "ALAC_16"},
    "a.flac": {},
    "a.ogg": {},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.mp3": {},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A noise of half a second, in every format; and the noise itself."""
    folder = tmp_path_factory.mktemp("formats")
    noise = numpy.random.default_rng(0).uniform(-0.4, 0.4, (RATE // 2, 2))
    for name, options in FORMATS.items():
        soundfile.write(folder / name, noise, RATE, **options)
    return folder, noise


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_are_read_and_halves_are_noticed(whole, tmp_path, name):
    folder, noise = whole
    sound = read(folder / name)
    assert (sound.rate, sound.cut) == (RATE, False)
    assert abs(sound.samples.shape[1] - len(noise)) < 300  # ADPCM fills its last block
    if "PCM_16" in soundfile.info(folder / name).subtype or "ALAC" in soundfile.info(folder / name).subtype:
        numpy.testing.assert_allclose(sound.samples, noise.T, atol=1 / 32768)
    content = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UnusableError, match=r"truncated|cannot be read"):
        read(tmp_path / name)


def test_an_ogg_file_without_its_last_pages_is_truncated(tmp_path):
    soundfile.write(tmp_path / "a.ogg", numpy.random.default_rng(0).normal(0, 0.1, 5 * RATE), RATE)
    content = (tmp_path / "a.ogg").read_bytes()
    assert read(tmp_path / "a.ogg").samples.shape == (1, 5 * RATE)
    (tmp_path / "a.ogg").write_bytes(content[: 3 * len(content) // 4])
    assert soundfile.info(tmp_path / "a.ogg").frames > 2 * RATE  # libsndfile sees a shorter sound
    with pytest.raises(UnusableError, match="truncated"):
        read(tmp_path / "a.ogg")


@pytest.mark.parametrize(
    ("sizes", "whole"),
    [
        ({4: 0}, True),  # counts the eight bytes before it, that is, it is the size of the file
        ({4: 10}, True),
        ({4: 0xFFFFFFFF, 40: 0xFFFFFFFF}, True),  # written to a pipe
        ({4: 0x7FFFF000, 40: 0x7FFFF000}, True),
        ({4: 0x7FFFFF, 40: 0x7FFFFF}, False),
    ],
)
def test_sizes_in_the_header(tmp_path, sizes, whole):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(numpy.arange(-4000, 4000, dtype="<i2").tobytes())
    content = bytearray((tmp_path / "a.wav").read_bytes())
    for place, size in sizes.items():
        content[place : place + 4] = struct.pack("<I", size or len(content))
    (tmp_path / "a.wav").write_bytes(content)
    if whole:
        numpy.testing.assert_array_equal(read(tmp_path / "a.wav").samples[0] * 32768, numpy.arange(-4000, 4000))
    else:
        with pytest.raises(UnusableError, match="truncated"):
            read(tmp_path / "a.wav")


def test_a_file_without_its_last_comment_is_whole(tmp_path):
    soundfile.write(tmp_path / "a.wav", numpy.full(8000, 0.25), RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes() + b"LIST" + struct.pack("<I", 100) + bytes(50))
    content[4:8] = struct.pack("<I", len(content) + 42)
    (tmp_path / "a.wav").write_bytes(content)
    assert (read(tmp_path / "a.wav").samples == 0.25).all()


def test_what_is_read_is_bounded(tmp_path, monkeypatch):
    """Silence compresses a thousandfold, so a small file can be a sound of days."""
    soundfile.write(tmp_path / "a.flac", numpy.zeros((100_000, 2), numpy.int16), RATE)
    sizes = []
    plain = soundfile.SoundFile.read

    def measured(file, frames, **options):
        sizes.append(frames * file.channels)
        return plain(file, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", measured)
    monkeypatch.setattr(files, "MOST_VALUES", 50_000)
    monkeypatch.setattr(files, "_BLOCK", 16_384)
    sound = read(tmp_path / "a.flac")
    assert sound.samples.shape == (2, 25_000)
    assert sound.cut
    assert max(sizes) == 16_384


@pytest.mark.parametrize(("name", "subtype"), [("SDS", "PCM_16"), ("VOC", "PCM_16"), ("XI", "DPCM_16")])
def test_formats_without_an_ending_are_refused_whatever_their_name(tmp_path, capfd, name, subtype):
    path = tmp_path / "a.wav"
    soundfile.write(path, numpy.sin(numpy.arange(3000) / 9) / 2, 16000, format=name, subtype=subtype)
    path.write_bytes(path.read_bytes()[:2000] + bytes(1000))
    with pytest.raises(UnusableError, match=f"a sound in the format {name}, which is not read"):
        read(path)
    assert capfd.readouterr().out == ""


def test_pipes_and_folders_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name in ("pipe.wav", "folder.wav"):
        with pytest.raises(UnusableError, match=r"^not a regular file$"):
            read(tmp_path / name)
    with pytest.raises(UnusableError, match=r"^missing$"):
        read(tmp_path / "gone.wav")


@pytest.mark.parametrize(
    ("content", "rate", "said"),
    [
        ([0.1] * 999 + [math.nan], RATE, "values that are not finite"),
        ([0.1] * 999 + [1e30], RATE, "too large for a sound"),
        ([0.1] * 60, RATE, "shorter than 5 ms"),
        ([0.1] * 999, 2_000_000, "a sampling rate of 2000000 Hz"),
    ],
)
def test_what_is_no_sound_is_refused(tmp_path, content, rate, said):
    soundfile.write(tmp_path / "a.wav", numpy.array(content), rate, "FLOAT")
    with pytest.raises(UnusableError, match=said):
        read(tmp_path / "a.wav")


def test_the_reason_is_that_of_the_library(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"not a sound at all")
    with pytest.raises(UnusableError, match=r"^cannot be read: Format not recognised$"):
        read(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.rf64", "a.w64", "a.aiff", "a.au", "a.caf", "a.flac", "a.ogg"])
def test_damaged_files_are_read_or_refused(whole, tmp_path, name):
    """Bytes in the header and elsewhere are replaced at random; nothing but `UnusableError` is raised."""
    content = (whole[0] / name).read_bytes()
    random.seed(0)
    for _ in range(20):
        damaged = bytearray(content)
        for _ in range(random.randint(1, 5)):
            damaged[random.randrange(random.choice((64, 200, len(damaged))))] = random.randrange(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            example, _ = fit(read(tmp_path / name), Format(RATE, 2048, 1, trim=True))
        except (UnusableError, SilentError):
            continue
        assert example.shape == (1, 2048)
