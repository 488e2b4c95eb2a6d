"""Inpainting and upscaling of images: the reader, and the commands as a user types them."""

from dataclasses import replace

import numpy
import pytest
import torch
from PIL import Image

from diffcore.cli import main
from diffcore.errors import UserError
from diffcore.plugins.registry import installed
from diffcore.sampling.inverse.operators import Coarse
from diffcore_image import datasets
from diffcore_image.codec import ImageCodec
from diffcore_image.options import DigitsOptions, ImageFacts
from diffcore_image.plugin import IMAGE
from diffcore_image.reader import ImageReader
from tests.image.test_commands import TINY


@pytest.fixture(scope="module")
def digit():
    return datasets.digits(DigitsOptions()).examples["pixels"][5, 0].numpy()


@pytest.fixture(scope="module")
def files(tmp_path_factory, digit):
    """A digit, a mask whose right half is white, and the digit at half its size."""
    folder = tmp_path_factory.mktemp("files")
    mask = numpy.zeros((8, 8), numpy.uint8)
    mask[:, 4:] = 255
    coarse = digit.reshape(4, 2, 4, 2).mean((1, 3)).round().astype(numpy.uint8)
    for name, pixels in {"digit": digit, "mask": mask, "coarse": coarse, "wide": digit[:4]}.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "digits", "--modality", "image", *TINY)


def pictures(folder):
    return [numpy.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("0*.png"))]


def reader():
    return ImageReader(ImageCodec(datasets.digits(DigitsOptions()).facts))


def test_reading_and_decoding_restores_the_file(files, digit):
    state = reader().read(files / "digit.png")
    assert numpy.array_equal(reader().codec.decode(state)[0, 0].numpy(), digit)


def test_white_pixels_of_a_mask_are_filled_in(files):
    missing = reader().read_missing(files / "mask.png")
    assert missing.dtype == torch.bool
    assert not missing[0, 0, :, :4].any()
    assert missing[0, 0, :, 4:].all()


def test_block_means_of_encoded_colours_are_the_encoded_block_means(tmp_path):
    """Encoding is affine in each channel; pixels here are multiples of four, so no mean is rounded."""
    facts = ImageFacts(channels=3, height=4, width=6, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))
    pixels = numpy.random.default_rng(0).integers(0, 60, (4, 6, 3), dtype=numpy.uint8) * 4
    Image.fromarray(pixels).save(tmp_path / "fine.png")
    means = pixels.reshape(2, 2, 3, 2, 3).mean((1, 3)).astype(numpy.uint8)
    Image.fromarray(means).save(tmp_path / "coarse.png")
    colours = ImageReader(ImageCodec(facts))
    coarse, factor = colours.read_coarse(tmp_path / "coarse.png")
    assert factor == 2
    torch.testing.assert_close(coarse, Coarse(2)(colours.read(tmp_path / "fine.png")))


HALF = numpy.zeros((8, 8), bool)
HALF[:, 4:] = True


@pytest.mark.parametrize(
    ("white", "alpha"),
    [(HALF, HALF), (numpy.ones((8, 8)), HALF), (numpy.zeros((8, 8)), ~HALF), (HALF, numpy.ones((8, 8)))],
    ids=["white ink on clear", "white everywhere, painted in alpha", "black ink on clear", "opaque"],
)
def test_masks_may_be_painted_in_alpha(tmp_path, white, alpha):
    """Each of the masks shows the same picture: what is to be filled in is white, or clear around black."""
    Image.fromarray((numpy.stack([white] * 3 + [alpha], -1) * 255).astype(numpy.uint8)).save(tmp_path / "mask.png")
    assert torch.equal(reader().read_missing(tmp_path / "mask.png")[0, 0], torch.from_numpy(HALF))


def test_a_mask_of_three_kinds_is_refused(tmp_path):
    """White, black and clear, as in a photograph with a hole."""
    pixels = numpy.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=numpy.uint8)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="white, black and transparent pixels"):
        reader().read_missing(tmp_path / "mask.png")


def test_every_reader_shows_pictures_as_a_viewer_does(tmp_path, digit, caplog):
    """16 bits, floating point, and ink on clear, turned as EXIF says, for inpainting, upscaling and masks."""
    exif = Image.Exif()
    exif[274] = 6
    ink = numpy.stack([numpy.zeros_like(digit), 255 - digit], -1)
    for name, image in {
        "deep.png": Image.fromarray(digit.T[::-1].astype(numpy.uint16) * 257),
        "float.tiff": Image.fromarray(digit.T[::-1].astype(numpy.float32) / 255),
        "ink.png": Image.fromarray(ink.transpose(1, 0, 2)[::-1].copy(), "LA"),
    }.items():
        image.save(tmp_path / name, exif=exif)
        with caplog.at_level("INFO"):
            state = reader().read(tmp_path / name)
        assert numpy.array_equal(reader().codec.decode(state)[0, 0].numpy(), digit)
        assert f"{name}: " in caplog.text
        big = ImageFacts(channels=1, height=16, width=16, mean=(0.0,), std=(1.0,))
        coarse, factor = ImageReader(ImageCodec(big)).read_coarse(tmp_path / name)
        assert factor == 2
        assert numpy.array_equal((coarse[0, 0] * 255).round().numpy(), digit)
    wide = Image.fromarray(HALF.T[::-1].astype(numpy.uint16) * 65535)
    wide.save(tmp_path / "mask.png", exif=exif)
    assert torch.equal(reader().read_missing(tmp_path / "mask.png")[0, 0], torch.from_numpy(HALF))


@pytest.mark.parametrize("method", ["repaint", "mmps", "dps"])
def test_inpainting_leaves_known_pixels_as_they_are(run, files, digit, tmp_path, method):
    flags = ["--inpaint", files / "digit.png", "--mask", files / "mask.png", "--method", method, "--resamplings", 2]
    command = ["sample", run, "--n", 3, "--label", 3, "--out", tmp_path / "out", *flags]
    assert main([str(word) for word in command]) == 0
    drawn = pictures(tmp_path / "out")
    assert len(drawn) == 3
    for picture in drawn:
        assert numpy.array_equal(picture[:, :4], digit[:, :4])
    assert abs(drawn[0][:, 4:] - drawn[1][:, 4:]).max() > 10


def test_upscaling_keeps_the_block_means(run, files, tmp_path):
    command = ["sample", run, "--upscale", files / "coarse.png", "--n", 4, "--steps", 12, "--out", tmp_path / "out"]
    assert main([str(word) for word in command]) == 0
    coarse = numpy.asarray(Image.open(files / "coarse.png")).astype(int)
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[0] == "0000.png"
    means = numpy.stack([picture.reshape(4, 2, 4, 2).mean((1, 3)) for picture in pictures(tmp_path / "out")])
    assert abs(means - coarse).max() <= 0.5  # rounding of each pixel; without the file, they would differ by 80


def test_mistakes_get_a_line(run, files, tmp_path, capsys, monkeypatch):
    def refused(*flags):
        capsys.readouterr()
        assert main([str(word) for word in ("sample", run, "--out", tmp_path / "out", *flags)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffcore: ")]
        return line

    digit, mask = files / "digit.png", files / "mask.png"
    assert "--inpaint needs --mask, a file that is white where" in refused("--inpaint", digit)
    assert "--mask belongs to --inpaint" in refused("--mask", mask)
    assert "two different tasks" in refused("--inpaint", digit, "--mask", mask, "--upscale", digit)
    assert "the image has 8x4 pixels; this model needs 8x8" in refused("--inpaint", files / "wide.png", "--mask", mask)
    assert "the mask has 8x4 pixels; this model needs 8x8" in refused("--inpaint", digit, "--mask", files / "wide.png")
    assert "8x4 pixels; the model's 8x8 must be the same whole multiple" in refused("--upscale", files / "wide.png")
    assert "8x8 pixels; the model's 8x8 must be the same whole multiple" in refused("--upscale", digit)
    assert "there is no such file" in refused("--upscale", files / "none.png")
    assert "cannot be read: not an image in one of the formats AVIF, BMP, " in refused("--upscale", files / "text.png")
    assert "repaint cannot upscale" in refused("--upscale", files / "coarse.png", "--method", "repaint")
    for name, value, said in (("black", 0, "nothing to fill in"), ("white", 255, "no entry is known")):
        Image.fromarray(numpy.full((8, 8), value, numpy.uint8)).save(tmp_path / f"{name}.png")
        assert said in refused("--inpaint", digit, "--mask", tmp_path / f"{name}.png")
    modalities = installed().modalities  # which other tests of this process use too
    monkeypatch.setitem(modalities, "image", replace(modalities["image"], record=replace(IMAGE, reader=None)))
    assert "the plugin for image cannot read files" in refused("--upscale", files / "coarse.png")
    with pytest.raises(UserError, match="cannot be read: not a file"):
        reader().read(files)


def test_variations_of_a_picture_are_nearer_to_it_the_smaller_the_strength(run, files, digit, tmp_path):
    def drawn(name, *flags):
        command = ["sample", run, "--n", 4, "--steps", 8, "--out", tmp_path / name, *flags]
        assert main([str(word) for word in command]) == 0
        return pictures(tmp_path / name)

    whole = ("--from", files / "digit.png", "--strength")
    assert all(numpy.array_equal(picture, digit) for picture in drawn("same", *whole, 0))
    near, far = (
        [abs(picture - digit).mean() for picture in drawn(name, *whole, strength)]
        for name, strength in (("near", 0.1), ("far", 0.9))
    )
    assert 0 < max(near) < min(far)
    for picture in drawn("half", *whole, 0.9, "--mask", files / "mask.png"):
        assert numpy.array_equal(picture[:, :4], digit[:, :4])
        assert abs(picture[:, 4:] - digit[:, 4:]).max() > 10
    other = files / "wide.png"
    command = ["sample", str(run), "--from", str(other), "--out", str(tmp_path / "no")]
    assert main(command) == 2


def test_the_way_between_two_pictures_begins_and_ends_with_them(run, files, digit, tmp_path):
    Image.fromarray(digit.T.copy()).save(tmp_path / "turned.png")
    files = [files / "digit.png", tmp_path / "turned.png"]
    command = ["sample", run, "--between", *files, "--n", 3, "--out", tmp_path / "out", "--label", "5"]
    assert main([str(word) for word in command]) == 0
    first, middle, last = pictures(tmp_path / "out")
    assert numpy.array_equal(first, digit)
    assert numpy.array_equal(last, digit.T)
    assert abs(middle - digit).max() > 10


def test_files_are_samples_without_encoding(files, digit):
    assert reader().read_samples(files / "digit.png").tolist() == [[digit.tolist()]]
    with pytest.raises(UserError, match="has 8x4 pixels; this model needs 8x8"):
        reader().read_samples(files / "wide.png")
