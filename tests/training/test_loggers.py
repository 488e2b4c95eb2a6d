"""Loggers of other projects, with those projects themselves where they are installed."""

import struct
import sys
import zlib
from types import SimpleNamespace

import pytest

from diffcore.errors import UserError
from diffcore.plugins.builtin.loggers import TrackedOptions
from diffcore.plugins.output import Metric
from diffcore.plugins.records import NoOptions
from diffcore.training.loggers import tensorboard, trackio, wandb

ROWS = [{"step": 10, "loss": 0.5, "seconds": 1.0}, {"step": 20, "loss": 0.25, "seconds": 2.0}]


def png(width, height):
    """A grey picture."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = (b"\0" + bytes(width)) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tell(logger, folder, rows):
    for row in rows:
        logger.row(row)
    (folder / "shown.png").write_bytes(png(5, 3))
    logger.picture(rows[-1]["step"], folder / "shown.png")
    logger.picture(rows[-1]["step"], folder / "heard.wav")
    logger.metrics(rows[-1]["step"], [Metric("distance", 3.5, "how far")])
    logger.close()


def test_tensorboard_has_the_numbers_the_picture_and_the_figures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(tensorboard(NoOptions(), tmp_path, {}), tmp_path, ROWS)
    again = [{"step": 20, "loss": 0.2, "seconds": 2.1}, {"step": 30, "loss": 0.1, "seconds": 3.0}]
    tell(tensorboard(NoOptions(), tmp_path, {}), tmp_path, again)  # resumed at step 10
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert {e.step: e.value for e in found.Scalars("loss")} == pytest.approx({10: 0.5, 20: 0.2, 30: 0.1})
    assert [(e.step, e.value) for e in found.Scalars("metrics/distance")] == [(30, 3.5)]
    (shown,) = found.Images("samples")
    assert (shown.step, shown.width, shown.height, shown.encoded_image_string) == (30, 5, 3, png(5, 3))


def test_wandb_keeps_one_run_when_training_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    first = wandb(TrackedOptions(project="here"), tmp_path, {"seed": 3})
    assert (first.handle.project, first.handle.config["seed"]) == ("here", 3)
    tell(first, tmp_path, ROWS)
    (kept,) = (tmp_path / "wandb").rglob("run-*.wandb")
    content = kept.read_bytes()  # names and values are kept as text
    assert all(part in content for part in (b"loss", b"0.25", b"metrics/distance", b"3.5", b"samples"))
    second = wandb(TrackedOptions(project="here"), tmp_path, {})
    assert second.handle.id == first.handle.id
    second.close()


def test_trackio_keeps_one_run_when_training_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    first = trackio(TrackedOptions(project="here"), tmp_path, {"seed": 3})
    tell(first, tmp_path, ROWS)
    second = trackio(TrackedOptions(project="here"), tmp_path, {})
    assert second.handle.name == first.handle.name
    second.close()


SECRET = "a private key"


def library(monkeypatch, name):
    """A stand-in for Weights & Biases or Trackio, which keeps what it is sent."""
    sent = []
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=lambda **values: sent.append(values)))
    return sent


@pytest.mark.parametrize(("name", "start"), [("wandb", wandb), ("trackio", trackio)])
@pytest.mark.parametrize("linked", ["the folder", "the file", "the content"])
def test_no_file_is_sent_as_an_identity(name, start, linked, tmp_path, monkeypatch):
    sent = library(monkeypatch, name)
    private, run = tmp_path / "private", tmp_path / "run"
    private.mkdir()
    (private / "identity").write_text(SECRET)
    run.mkdir()
    if linked == "the folder":
        (run / name).symlink_to(private)
    else:
        (run / name).mkdir()
        if linked == "the file":
            (run / name / "identity").symlink_to(private / "identity")
        else:
            (run / name / "identity").write_text(SECRET)
    with pytest.raises(UserError, match=rf"{name}.* is a link|is not the identifier of a run"):
        start(TrackedOptions(project="here"), run, {})
    assert sent == []


def test_tensorboard_does_not_write_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="tensorboard is a link"):
        tensorboard(NoOptions(), tmp_path, {})
    assert list((tmp_path / "elsewhere").iterdir()) == []
