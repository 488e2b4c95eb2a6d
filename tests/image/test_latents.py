"""Latents of images: from pixels to a sample, and the measure of reconstructions."""

import pytest
import torch
from PIL import Image

import diffcore as dc
from diffcore_image.stages.autoencoder import fidelity

QUICK = {"steps": 12, "batch_size": 32, "evaluate": 20, "learning_rate": 5e-3, "warmup_steps": 2, "ema_width": 0.02}
SMALL = {"factor": 2, "patch": 2, "width": 16}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    place = tmp_path_factory.mktemp("first") / "run"
    train = {**QUICK, "steps": 60}
    return dc.train("image", task={"name": "encode", "equivariance": 0.5}, autoencoder=SMALL, train=train, out=place)


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    denoiser = {"width": 8, "multipliers": (1,)}
    train = {**QUICK, "evaluate": 0}
    return dc.train(
        "image", latent=first.path, denoiser=denoiser, train=train, out=tmp_path_factory.mktemp("b") / "run"
    )


def test_the_measure_is_the_peak_signal_to_noise_ratio():
    originals = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    found = originals.clone()
    found[0] = 255  # 0 dB
    found[1] = 1  # 20 log10(255) dB; the third is exact
    (metric,) = fidelity(None)(originals, found)
    assert metric.value == pytest.approx((0 + 48.1308 + 100) / 3, rel=1e-5)


def test_an_autoencoder_of_images_reconstructs_them(first):
    metrics = {metric.name: metric.value for metric in first.evaluate(n=30)}
    assert metrics["psnr"] > 13
    assert metrics["latent_std_error"] < 0.1
    assert metrics["compression"] == 1.0  # 8 x 8 to 4 x 4 x 4
    page = (first.path / "report.html").read_text()
    assert "Originals above reconstructions" in page
    assert "psnr" in page


def test_images_are_drawn_and_completed_in_latents(second, tmp_path):
    samples = second.sample(3, label="7", steps=4)
    assert samples.state.shape == (3, 4, 4, 4)
    assert samples.decoded.shape == (3, 1, 8, 8)
    assert samples.decoded.dtype == torch.uint8
    Image.new("L", (8, 8), 200).save(tmp_path / "known.png")
    mask = Image.new("L", (8, 8), 0)
    mask.putpixel((0, 0), 255)
    mask.save(tmp_path / "mask.png")
    completed = second.inpaint(
        tmp_path / "known.png", tmp_path / "mask.png", n=2, method="repaint", resamplings=1, steps=4
    )
    codec = second.model.codec
    known = codec.latent((torch.full((1, 1, 8, 8), 200 / 255) - codec.first._mean) / codec.first._std)
    difference = (completed.state - known).abs()[:, :, 1:]  # all rows of cells but that of the missing pixel
    assert difference.max() < 5 * 0.0821  # the noise that latents keep
    assert second.log_likelihood([tmp_path / "known.png"]).isfinite().all()
