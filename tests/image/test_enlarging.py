"""Models that enlarge images, alone and after a model of small ones."""

from functools import partial

import numpy
import pytest
import torch
from PIL import Image

import diffcore as dc
from diffcore import cli
from diffcore.denoising.conditions.coarse_condition import CoarseGrid, enlarging_condition
from diffcore.errors import UserError
from diffcore.states.noise import Draws, generator_for
from tests.support import refusals

COARSE = CoarseGrid("coarse", (2, 3, 4), 0.4, 2)


def test_values_are_means_of_blocks_and_the_noise_that_they_have():
    x = torch.randn(3000, 2, 6, 8, generator=generator_for(0))
    means = x.unflatten(3, (4, 2)).unflatten(2, (3, 2)).mean((3, 5))
    plain, noisy = COARSE.drawn(means), COARSE.drawn(means, Draws.of(0, range(3000)))
    torch.testing.assert_close(plain[:, :2], means)
    assert not plain[:, 2].any()
    std = noisy[:, 2]
    assert torch.equal(std, std[:, :1, :1].expand_as(std))
    std = std[:, 0, 0]
    assert std.min() >= 0
    assert std.max() <= 0.4
    assert std.mean().item() == pytest.approx(0.2, abs=0.01)
    eps = (noisy[:, :2] - means) / std[:, None, None, None]
    assert eps.std().item() == pytest.approx(1, abs=0.01)


def test_the_embedding_is_the_enlarged_state_its_noise_and_whether_it_is_given():
    embed = COARSE.embedding(16)
    value = COARSE.values(torch.full((1, 2, 3, 4), 5.0), 0.25)
    found = embed(torch.cat([value, COARSE.null(1)])).like_state
    assert found.shape == (2, 4, 6, 8) == (2, COARSE.inputs.like_state, 6, 8)
    assert found[0, :, 0, 0].tolist() == [5.0, 5.0, 0.25, 1.0]
    assert not found[1].any()
    assert COARSE.given(torch.cat([value, COARSE.null(1)])).tolist() == [True, False]
    with pytest.raises(UserError, match="negative standard deviation"):
        COARSE.require(COARSE.values(torch.zeros(1, 2, 3, 4), -1.0))


@pytest.fixture(scope="module")
def enlarging(tmp_path_factory):
    """A model of digits that gets them at 4x4."""
    return dc.train(
        "image",
        data={"upscale": 2},
        denoiser={"width": 16, "multipliers": (1,)},
        train={"steps": 80, "evaluate": 0, "learning_rate": 4e-3, "warmup_steps": 5, "ema_width": 0.02},
        out=tmp_path_factory.mktemp("enlarging") / "run",
    )


def _values(run, pixels):
    condition = enlarging_condition(run.model.codec.conditions)
    return {"coarse": condition.values(condition.of_pixels(pixels))}


def test_samples_follow_the_small_image(enlarging, tmp_path):
    """80 steps are enough for the level of grey: the means of blocks are near those of the file."""
    held_out = enlarging.data.held_out[:12]
    small = torch.nn.functional.avg_pool2d(held_out["pixels"].float(), 2).round().to(torch.uint8)
    values = _values(enlarging, small)
    codec = enlarging.model.codec
    exact = torch.nn.functional.avg_pool2d(codec.encode(held_out).state, 2)
    torch.testing.assert_close(codec.encode(held_out).conditions["coarse"][:, :1], exact)
    torch.testing.assert_close(values["coarse"][:, :1], exact, rtol=0, atol=0.51 / 255 / codec.facts.std[0])
    drawn = enlarging.sample(12, steps=6, conditions=values).decoded
    means = torch.nn.functional.avg_pool2d(drawn.float(), 2)
    error = (means - small.float()).square().mean().sqrt()
    assert error < 0.6 * small.float().std()
    Image.fromarray(small[0, 0].numpy()).save(tmp_path / "small.png")
    of_file = enlarging.sample(1, steps=6, conditions={"coarse": str(tmp_path / "small.png")}).decoded
    assert torch.equal(of_file[0], enlarging.sample(1, steps=6, conditions={"coarse": values["coarse"][:1]}).decoded[0])


def test_a_model_of_small_images_and_one_that_enlarges_draw_together(enlarging, tmp_path, capsys):
    rng = numpy.random.default_rng(0)
    (tmp_path / "small").mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (4, 4), dtype=numpy.uint8)).save(tmp_path / "small" / f"{number}.png")
    root, quick = str(tmp_path / "small"), ("--train.steps", "2", "--train.batch-size", "4", "--train.evaluate", "0")
    network = ("--denoiser.width", "8", "--denoiser.multipliers", "1", "--denoiser.patch", "1")
    run = tmp_path / "run"
    flags = ("--modality", "image", "--data", "folder", "--data.root", root, "--data.size", "4", *network, *quick)
    assert cli.main(["train", *flags, "--out", str(run)]) == 0
    out = tmp_path / "both"
    then = ("--then", str(enlarging.path), "--n", "3", "--steps", "2", "--out", str(out))
    assert cli.main(["sample", str(run), *then]) == 0
    assert Image.open(sorted(out.glob("*.png"))[0]).size == (8, 8)
    small = dc.load(run).sample(3, steps=2)
    expected = enlarging.sample(3, conditions=enlarging.conditions_of(small)).decoded
    found = [torch.from_numpy(numpy.array(Image.open(path))) for path in sorted(out.glob("*.png"))]
    assert torch.equal(torch.stack(found), expected[:, 0])
    refused = partial(refusals.refused, capsys, "sample", run, "--n", "2", "--out", tmp_path / "none")
    assert "run does not enlarge samples: it was trained without --data.upscale" in refused("--then", run)
    wrong = "run: the model enlarges images of 1 channel of 4x4 pixels, not 1 channel of 8x8 pixels"
    assert wrong in refused("--then", enlarging.path, "--then", enlarging.path)
    assert "no run" in refused("--then", tmp_path / "nothing")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("large.png", "large.png: the model enlarges images of 1 channel of 4x4 pixels, not 1 channel of 8x8"),
        ("none.png", "none.png: there is no such file"),
        ("text.png", "text.png cannot be read: not an image"),
    ],
)
def test_files_that_are_no_small_image_are_refused(enlarging, tmp_path, name, said, capsys):
    Image.fromarray(numpy.zeros((8, 8), numpy.uint8)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("text")
    condition = f"coarse={tmp_path / name}"
    assert said in refusals.refused(capsys, "sample", enlarging.path, "--condition", condition)


def test_factors_that_do_not_divide_are_refused(capsys):
    said = refusals.refused(capsys, "train", "--modality", "image", "--data.upscale", "3", "--train.steps", "1")
    assert "--data.upscale 3: it must be a whole number from 2 on that divides the sides" in said
