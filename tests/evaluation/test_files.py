"""Samples of files: which files are read, what is told of the others, and metrics that a reader and a codec give."""

import logging
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image

import diffcore as dc
from diffcore.cli import main
from diffcore.errors import UserError
from diffcore.evaluation.files import judged, samples_in
from diffcore.plugins.output import Metric
from tests.support.refusals import refused


class Reader:
    """Reads a number from each file."""

    endings = (".txt", ".TEXT".lower())

    def read(self, path):
        try:
            return torch.tensor([[float(path.read_text())]])
        except ValueError:
            raise UserError(f"{path.name} is no number") from None


CODEC = SimpleNamespace(decode=lambda state: state * 10, conditions=())


@pytest.fixture
def folder(tmp_path):
    for name, text in {"b.txt": "2", "a.TXT": "1", "wrong.txt": "x", "notes.md": "no"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.txt").write_text("3")
    return tmp_path


def test_files_of_a_folder_are_read_and_decoded_and_others_are_told(folder, caplog):
    with caplog.at_level(logging.WARNING):
        found = samples_in(Reader(), CODEC, [folder])
    assert found[:, 0].tolist() == [10, 20, 30]
    assert "1 of 4 files are not judged: wrong.txt is no number" in caplog.text
    (folder / "recipe.json").write_text("{}")  # then folders within hold no samples
    assert samples_in(Reader(), CODEC, [folder])[:, 0].tolist() == [10, 20]
    assert samples_in(Reader(), CODEC, [folder / "b.txt", folder / "a.TXT"])[:, 0].tolist() == [20, 10]


def test_readers_of_several_samples_decode_themselves(folder):
    reader = SimpleNamespace(endings=(".txt",), read_samples=lambda path: [path.name, path.stem])
    assert samples_in(reader, CODEC, [folder / "b.txt", folder / "a.TXT"]) == ["b.txt", "b", "a.TXT", "a"]


def test_no_samples_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"no samples: wrong.txt is no number"):
        samples_in(Reader(), CODEC, [folder / "wrong.txt"])
    with pytest.raises(UserError, match="no file "):
        samples_in(Reader(), CODEC, [folder / "none.txt"])
    with pytest.raises(UserError, match=r"has no file that ends in \.wav"):
        samples_in(SimpleNamespace(endings=(".wav",)), CODEC, [folder])
    with pytest.raises(UserError, match="cannot be read as whole samples"):
        samples_in(SimpleNamespace(endings=(".txt",)), CODEC, [folder])


def test_metrics_are_those_of_the_evaluator_and_the_given_ones(folder):
    def of(name):
        return lambda samples, conditions: [Metric(name, samples.sum().item(), "the sum")]

    modality = SimpleNamespace(name="numbers", reader=lambda codec: Reader(), evaluator=lambda *_: of("own"))
    n, found = judged(modality, CODEC, None, [folder / "b.txt", folder / "a.TXT"], {"more": of("given")})
    assert (n, [(metric.name, metric.value) for metric in found]) == (2, [("own", 30), ("given", 30)])
    modality.evaluator = None
    with pytest.raises(UserError, match="has no metrics"):
        judged(modality, CODEC, None, [folder], {})
    modality.reader = None
    with pytest.raises(UserError, match="reads no files"):
        judged(modality, CODEC, None, [folder], {})


def test_mistakes_of_the_command(capsys, tmp_path):
    picture = tmp_path / "small.png"
    Image.fromarray(numpy.zeros((4, 4), numpy.uint8)).save(picture)
    assert "the files to judge come first" in refused(capsys, "judge", "--modality", "image")
    assert "--modality is missing" in refused(capsys, "judge", picture)
    assert "does not go with --run" in refused(capsys, "judge", picture, "--run", "r", "--modality", "image")
    assert "has 4x4 pixels; this model needs 8x8" in refused(capsys, "judge", picture, "--modality", "image")
    assert main(["judge", "--help"]) == 0
    with pytest.raises(UserError, match="give one"):
        dc.judge(picture)
