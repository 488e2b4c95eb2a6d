"""Pictures are read as a viewer shows them. The expected values are computed by hand."""

import contextlib
import io
import os
import random
import struct
import zlib

import numpy
import pytest
import torch
from PIL import Image, ImageCms

from diffcore.plugins.folders import UnusableError
from diffcore_image import datasets, stored
from diffcore_image.options import FolderOptions
from diffcore_image.pictures import decode

WHITE = (255, 255, 255)
RAMP = numpy.arange(0, 256, 33)
"""0, 33, 66, … 231."""


def png(depth, colour_type, rows, **chunks):
    """A PNG file of rows of bytes, made without Pillow."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    width = len(rows[0]) * 8 // (depth * channels)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(name.encode(), content) for name, content in chunks.items())]
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(row, bits, kind=1, photometric=1):
    """A TIFF file with one row of grey values, made without Pillow. Kind 1 is unsigned, 2 signed, 3 floating point."""
    width = len(row) * 8 // bits
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 1, 279: len(row), 339: kind}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + row


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path):
    """Decode the content of a file."""

    def decoded(content, background=None):
        (tmp_path / "file").write_bytes(content)
        picture = decode(tmp_path / "file")
        return picture if background is None else picture.on(background)

    return decoded


def values(picture):
    return numpy.asarray(picture.image).tolist()


SIXTEEN = (RAMP * 257).astype(">u2").tobytes()
FLOATS = (RAMP / 255).astype("<f4").tobytes()
DEEP = {
    "png": png(16, 0, [SIXTEEN]),
    "png of pillow": saved(Image.fromarray((RAMP * 257).astype(numpy.uint16)[None]), "PNG"),
    "tiff": tiff((RAMP * 257).astype("<u2").tobytes(), 16),
    "tiff, zero is white": tiff((65535 - RAMP * 257).astype("<u2").tobytes(), 16, photometric=0),
    "tiff, packed": saved(Image.fromarray((RAMP * 257).astype(numpy.uint16)[None]), "TIFF", compression="tiff_lzw"),
    "pgm": b"P5 8 1 65535\n" + SIXTEEN,
    "pgm as text": b"P2 8 1 65535\n" + b" ".join(b"%d" % value for value in RAMP * 257),
    "pgm of 12 bits": b"P5 8 1 4095\n" + (RAMP * 4095 / 255).round().astype(">u2").tobytes(),
    "jpeg 2000": saved(Image.fromarray((RAMP * 257).astype(numpy.uint16)[None]), "JPEG2000"),
    "tiff of floats": tiff(FLOATS, 32, 3),
    "tiff of floats, zero is white": tiff((1 - RAMP / 255).astype("<f4").tobytes(), 32, 3, photometric=0),
    "pfm": b"Pf\n8 1\n-1.0\n" + FLOATS,
}


@pytest.mark.parametrize("form", DEEP)
def test_values_of_more_than_8_bits_are_scaled(read, form):
    picture = read(DEEP[form])
    assert values(picture) == [RAMP.tolist()]
    assert "scaled to 8 bits" in picture.changes[0]


def test_12_bits_in_tiff_have_a_white_of_their_own(read):
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x00])  # 0, 4095, 2048, 0
    assert values(read(tiff(packed, 12))) == [[0, 255, 128, 0]]


def test_16_bits_of_colours_are_scaled(read):
    row = struct.pack(">6H", 0, 33 * 257, 65535, 66 * 257, 99 * 257, 255)
    assert values(read(png(16, 2, [row]))) == [[[0, 33, 255], [66, 99, 0]]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tiff(struct.pack("<2i", 0, 70_000), 32, 2), "32-bit or signed integers"),
        (tiff(struct.pack("<2I", 0, 2**32 - 1), 32), "32-bit or signed integers"),
        (tiff(struct.pack("<2h", -5, 300), 16, 2), "32-bit or signed integers"),
        (tiff(struct.pack("<2f", 0, 255), 32, 3), "values from 0 to 255; only those from 0 to 1"),
        (tiff(struct.pack("<2f", -0.5, 1), 32, 3), "values from -0.5 to 1; "),
        (tiff(struct.pack("<2f", 0, float("nan")), 32, 3), "not numbers"),
        (tiff(struct.pack("<2d", 0, 1), 64, 3), "TIFF with a kind of pixels that is not read"),
    ],
)
def test_values_without_a_known_white_are_refused(read, content, said):
    with pytest.raises(UnusableError, match=said):
        read(content)


def test_small_numbers_in_16_bits_are_told(read):
    (change,) = read(png(16, 0, [struct.pack(">2H", 0, 4095)])).changes
    assert change == "values of more than 8 bits scaled to 8 bits, all below 1/16 of white"


# Transparency


def test_black_ink_on_clear_is_composited(read):
    ink = png(8, 6, [bytes([0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 51])])
    assert values(read(ink, WHITE)) == [[[0] * 3, [255] * 3, [204] * 3]]  # 255 * (1 - 51 / 255)
    assert read(ink, WHITE).changes == ("composited on white",)
    assert values(read(ink, (0, 0, 0))) == [[[0] * 3] * 3]
    assert values(read(ink, (0, 0, 255))) == [[[0, 0, 0], [0, 0, 255], [0, 0, 204]]]
    assert read(ink, (0, 0, 255)).changes == ("composited on #0000ff",)


def test_compositing_rounds_to_the_nearest_value(read):
    alpha, value = numpy.meshgrid(numpy.arange(256), numpy.arange(256))
    pixels = numpy.stack([value, alpha], -1).astype(numpy.uint8)
    exact = (value * alpha + 90 * (255 - alpha)) / 255
    shown = numpy.array(values(read(saved(Image.fromarray(pixels, "LA"), "PNG"), (90, 90, 90))))
    assert abs(shown - exact).max() <= 0.5


PALETTE = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])
CLEAR = {
    "palette": (png(4, 3, [b"\x01\x20"], PLTE=PALETTE, tRNS=bytes([0, 255])), [WHITE, (0, 255, 0), (0, 0, 255)]),
    "half": (png(8, 3, [b"\x00"], PLTE=PALETTE, tRNS=bytes([51])), [(255, 204, 204)]),
    "grey of 1 bit": (png(1, 0, [b"\xa0"], tRNS=b"\0\0"), [255, 255, 255, 255]),
    "grey of 4 bits": (png(4, 0, [b"\x05\x5a"], tRNS=b"\0\5"), [0, 255, 255, 170]),
    "grey of 8 bits": (png(8, 0, [b"\x05\x06"], tRNS=b"\0\5"), [255, 6]),
    "grey of 16 bits": (png(16, 0, [struct.pack(">2H", 257, 258)], tRNS=struct.pack(">H", 257)), [255, 1]),
    "colours": (png(8, 2, [b"\x01\x02\x03\x01\x02\x04"], tRNS=b"\0\1\0\2\0\3"), [WHITE, (1, 2, 4)]),
    "grey and alpha": (png(8, 4, [b"\x00\x33\x07\xff"]), [204, 7]),
    "16 bits and alpha": (png(16, 6, [struct.pack(">4H", 0, 33 * 257, 65535, 65535)]), [(0, 33, 255)]),
    "gif": (saved(Image.fromarray(numpy.array([[0, 1]], numpy.uint8), "P"), "GIF", transparency=0), None),
}  # fmt: skip


@pytest.mark.parametrize("form", CLEAR)
def test_transparency_of_every_kind_is_composited(read, form):
    content, expected = CLEAR[form]
    found = numpy.asarray(read(content, WHITE).image.convert("RGB"))[0, : len(expected or ())].tolist()
    if expected is None:
        assert numpy.asarray(read(content, WHITE).image.convert("RGB"))[0, 0].tolist() == [255] * 3
    else:
        assert found == [list(value) if isinstance(value, tuple) else [value] * 3 for value in expected]


def test_opaque_alpha_changes_nothing(read):
    picture = read(png(8, 6, [bytes([1, 2, 3, 255])]), WHITE)
    assert (values(picture), picture.changes) == ([[[1, 2, 3]]], ())


# Colours


def test_cmyk_becomes_rgb(read):
    cyan = saved(Image.new("CMYK", (8, 8), (255, 0, 0, 51)), "TIFF")
    assert values(read(cyan))[0][0] == [0, 204, 204]
    assert read(cyan).changes == ("CMYK converted to RGB",)


def profile(gamma=None):
    """An ICC profile with the primaries of sRGB; `gamma` replaces its curve by a power."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", content, 128)
    for entry in range(count if gamma else 0):
        name, offset, _ = struct.unpack_from(">4sII", content, 132 + 12 * entry)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            struct.pack_into(">4sIHHi", content, offset, b"para", 0, 0, 0, round(gamma * 65536))
    return bytes(content)


def test_colours_of_another_profile_are_converted_to_srgb(read):
    """With a gamma of 1, value v means the light v / 255, which sRGB writes as 1.055 (v / 255)^(1 / 2.4) - 0.055."""
    levels = numpy.array([0, 20, 60, 128, 200, 255], numpy.uint8)
    image = Image.fromarray(numpy.stack([levels] * 3, -1)[None])
    picture = read(saved(image, "PNG", icc_profile=profile(1.0)))
    linear = levels / 255
    curve = numpy.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear) * 255
    assert abs(numpy.array(values(picture))[0] - curve[:, None]).max() <= 1
    assert picture.changes == ("colours converted from their ICC profile to sRGB",)
    clear = image.convert("RGBA")
    clear.putalpha(128)
    assert read(saved(clear, "PNG", icc_profile=profile(1.0))).image.getpixel((3, 0))[3] == 128


def test_srgb_and_damaged_profiles_leave_the_pixels(read):
    image = Image.fromarray(numpy.arange(48, dtype=numpy.uint8).reshape(4, 4, 3) * 5)
    same = read(saved(image, "PNG", icc_profile=profile()))
    assert (values(same), same.changes) == (numpy.asarray(image).tolist(), ())
    damaged = read(saved(image, "PNG", icc_profile=b"rubbish" * 50))
    assert values(damaged) == numpy.asarray(image).tolist()
    assert damaged.changes == ("ICC profile not used because it is damaged or does not fit",)


# Orientation and frames

UPRIGHT = numpy.array([[0, 50, 100], [150, 200, 250]], numpy.uint8)
LYING = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: UPRIGHT.T[::-1],  # the camera's right is up: rows are stored from right to left
    7: UPRIGHT.T[::-1, ::-1],
    8: UPRIGHT.T[:, ::-1],
}
"""How a picture is stored for each value of the field Orientation, by the definition of EXIF 2.3."""


@pytest.mark.parametrize("orientation", LYING)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_upright(read, orientation, form):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    picture = read(saved(Image.fromarray(LYING[orientation].copy()), form, exif=exif, **options))
    assert numpy.array_equal(numpy.asarray(picture.image.convert("L")), UPRIGHT)
    assert picture.changes == (("turned upright as EXIF says",) if orientation > 1 else ())


def test_a_photograph_of_a_phone_is_turned(read):
    exif = Image.Exif()
    exif[274] = 6
    lying = numpy.repeat(numpy.repeat(LYING[6], 16, 0), 16, 1)
    shown = numpy.asarray(read(saved(Image.fromarray(lying), "JPEG", quality=95, exif=exif)).image).astype(int)
    assert abs(shown[8::16, 8::16] - UPRIGHT).max() <= 3


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_frame_is_read_and_told(read, form):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    picture = read(saved(frames[0], form, save_all=True, append_images=frames[1:]))
    assert abs(numpy.asarray(picture.image.convert("RGB")).astype(int) - [255, 0, 0]).max() <= 3
    assert picture.changes == ("only the first of several frames or pages is used",)
    assert read(saved(frames[0], form)).changes == ()


# What is not read


def test_the_endings_follow_from_the_formats():
    assert {".png", ".jpg", ".jpeg", ".gif", ".tif", ".webp", ".bmp", ".ppm", ".pgm", ".pfm"} <= stored.ENDINGS
    assert not stored.ENDINGS & {".pdf", ".mpg", ".h5", ".eps", ".ps", ".wmf", ".psd", ".fits", ".heic"}


def test_no_program_is_started(read, monkeypatch):
    """Pillow hands files that begin like this to Ghostscript, whatever their ending."""
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: pytest.fail("a program was started"))
    with pytest.raises(UnusableError, match="not an image in one of the formats"):
        read(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")


def test_a_file_of_huge_size_is_refused_before_it_is_decoded(read, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it is decoded"))
    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 0, 0, 0, 0)
    small = png(8, 0, [b"\0"])
    huge = small[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + small[33:]
    with pytest.raises(UnusableError, match="12000x12000 pixels; at most 134,217,728"):
        read(huge)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    with pytest.raises(UnusableError, match="more than 134,217,728 pixels"):
        read(small[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + small[33:])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
def test_pipes_folders_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "empty.png").touch()
    for name in ("pipe", "folder", "device"):
        with pytest.raises(UnusableError, match="not a file"):
            decode(tmp_path / f"{name}.png")
    with pytest.raises(UnusableError, match="no such file"):
        decode(tmp_path / "missing.png")
    with pytest.raises(UnusableError, match="empty"):
        decode(tmp_path / "empty.png")


def seeds():
    generator = numpy.random.default_rng(0)
    colours = Image.fromarray(generator.integers(0, 256, (12, 10, 3), dtype=numpy.uint8))
    exif = Image.Exif()
    exif[274] = 6
    several = {"save_all": True, "append_images": [colours.rotate(180)]}
    yield "png", saved(colours, "PNG", exif=exif, icc_profile=profile())
    yield "palette", saved(colours.quantize(16), "PNG", transparency=3)
    yield "jpeg", saved(colours, "JPEG", exif=exif, icc_profile=profile())
    yield "cmyk", saved(colours.convert("CMYK"), "JPEG")
    yield "gif", saved(colours.quantize(8), "GIF", **several)
    yield "tiff", saved(colours, "TIFF", exif=exif)
    yield "packed tiff", saved(colours, "TIFF", compression="tiff_adobe_deflate", **several)
    yield "webp", saved(colours, "WEBP", exif=exif)
    yield "bmp", saved(colours, "BMP")
    yield "ppm", saved(colours, "PPM")
    yield "floats", DEEP["pfm"]


@pytest.mark.parametrize(("name", "whole"), [*seeds()], ids=[name for name, _ in seeds()])
def test_damaged_files_are_read_or_refused_with_a_reason(read, name, whole):
    """Cut, flipped and inserted bytes: a picture or a reason, and never another exception."""
    chance = random.Random(name)
    for _ in range(40):
        content = bytearray(whole)
        for _ in range(chance.choice((0, 1, 1, 4))):
            near = 100 if chance.random() < 0.5 else len(content)
            content[chance.randrange(min(near, len(content)))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.4:
            content = content[: chance.randrange(len(content))]
        with contextlib.suppress(UnusableError):
            assert read(bytes(content), WHITE).image.mode in ("L", "RGB")


# Folders


def test_a_folder_tells_what_was_changed(tmp_path):
    (tmp_path / "ink.png").write_bytes(png(8, 6, [bytes([0, 0, 0, 255, 0, 0, 0, 0])] * 2))
    (tmp_path / "deep.png").write_bytes(png(16, 0, [struct.pack(">4H", *[33 * 257] * 4)] * 3))
    (tmp_path / "print.pdf").write_bytes(b"%PDF-1.4")
    data = datasets.folder(FolderOptions(root=str(tmp_path), size=2, held_out=0.5))
    assert data.ledger.changed == {
        "composited on white": ("ink.png",),
        "values of more than 8 bits scaled to 8 bits": ("deep.png",),
        "cropped to a square": ("deep.png",),
    }
    assert data.ledger.about["size"] == "2x2 pixels (files: 2x2 to 4x3)"
    assert data.ledger.passed_over == {"files that end in .pdf, which are not read": ("print.pdf",)}
    pixels = {tuple(image.flatten().tolist()) for image in data.examples["pixels"]}
    assert pixels == {(33,) * 4, (0, 255, 0, 255)}
    black = datasets.folder(FolderOptions(root=str(tmp_path), size=2, background="black"))
    assert (black.examples["pixels"].amax((1, 2, 3)) == torch.tensor([33, 0])).all()
    assert black.facts.background == (0, 0, 0)
