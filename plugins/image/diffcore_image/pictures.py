"""Pictures as a viewer shows them: upright, in sRGB, with 8 bits for each channel.

All reading of pictures by this plugin goes through `decode`: data, inpainting, upscaling and masks.
"""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy
from PIL import Image, ImageChops, ImageCms

from diffcore.plugins.folders import UnusableError
from diffcore_image import stored
from diffcore_image.stored import UPRIGHT, Source, Stored

_DARK = 16
"""Values of more than 8 bits that are all below white divided by this are probably of 12 bits, or fewer."""

_NEAR = 3
"""A profile that moves no channel of a colour by more than this, of 255, counts as sRGB."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""

Colour = tuple[int, int, int]
"""Red, green and blue from 0 to 255."""


@dataclass(frozen=True)
class Picture:
    """A picture of mode L, LA, RGB or RGBA, and what reading it changed."""

    image: Image.Image
    changes: tuple[str, ...] = ()
    """What was done, such as "turned upright as EXIF says"."""

    def then(self, image: Image.Image, *changes: str) -> "Picture":
        """The picture with other pixels, and with more changes."""
        return Picture(image, (*self.changes, *changes))

    def on(self, background: Colour) -> "Picture":
        """The picture composited on an opaque background, of mode L or RGB.

        Each channel becomes alpha * value + (1 - alpha) * background in the values of sRGB, as in browsers.
        """
        if not has_alpha(self.image):
            return self
        grey = self.image.mode == "LA" and len({*background}) == 1
        canvas = Image.new("L", self.image.size, background[0]) if grey else None
        canvas = canvas or Image.new("RGB", self.image.size, background)
        canvas.paste(self.image.convert(canvas.mode), mask=self.image.getchannel("A"))
        return self.then(canvas, f"composited on {colour_name(background)}")


def has_alpha(image: Image.Image) -> bool:
    """Whether a picture has a channel for transparency."""
    return image.mode in ("LA", "RGBA")


def colour_name(colour: Colour) -> str:
    """White, black, or the colour as #rrggbb."""
    return {(255, 255, 255): "white", (0, 0, 0): "black"}.get(colour, "#{:02x}{:02x}{:02x}".format(*colour))


def decode(source: Source) -> Picture:
    """Read a picture from a file, or from the content of one, as a viewer shows it.

    * Grey values of 16 bits are divided by 257, so that 65535 becomes 255; those of 9 to 15 bits accordingly.
      Floating-point values are multiplied by 255. Integers of 32 bits, and floating-point values outside [0, 1], are
      refused: nothing says which of them is white.
    * Palettes, CMYK and YCbCr become RGB. Colours with an ICC profile are converted to sRGB.
    * The picture is turned upright as its EXIF orientation says.
    * Transparency remains as a channel of its own, if a pixel is transparent; `Picture.on` removes it.
    * Of several frames or pages, the first is read.

    Raises `UnusableError` with the reason where that is not possible.
    """
    found = stored.read(source)
    picture = _in_srgb(_in_eight_bits(found), found.profile)
    if found.orientation != UPRIGHT:
        picture = picture.then(picture.image.transpose(_TURNS[found.orientation]))
    turned = ("turned upright as EXIF says",) if found.lay != UPRIGHT else ()
    first = ("only the first of several frames or pages is used",) if found.more else ()
    return picture.then(_without_needless_alpha(picture.image), *turned, *first)


def _in_eight_bits(found: Stored) -> Picture:
    """The picture in mode L, LA, RGB, RGBA or CMYK."""
    image, changes = found.image, list[str]()
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        image, note = _scaled(found)
        changes.append(note)
    if found.clear is not None:
        values = numpy.asarray(found.image).reshape(image.height, image.width, -1)
        opaque = (values != numpy.array(found.clear)).any(2)
        image.putalpha(Image.fromarray(opaque.astype(numpy.uint8) * 255))
    return Picture(image, tuple(changes))


def _scaled(found: Stored) -> tuple[Image.Image, str]:
    """Values of more than 8 bits scaled to 8, and a note of that. Raises `UnusableError` if white is not known."""
    if found.white is None:
        raise UnusableError("32-bit or signed integers, for which no value is white; store 8 or 16 bits")
    values = numpy.asarray(found.image)
    low, high = float(values.min()), float(values.max())
    if low != low:
        raise UnusableError("values that are not numbers")
    if low < 0 or high > found.white:
        raise UnusableError(f"values from {low:g} to {high:g}; only those from 0 to {found.white} can be shown")
    kind = "floating-point values" if found.image.mode == "F" else "values of more than 8 bits"
    dark = high <= found.white / _DARK and not found.inverted
    note = f"{kind} scaled to 8 bits" + f", all below 1/{_DARK} of white" * dark
    if found.white == 1:
        eight = (values * 255).round().astype(numpy.uint8)
    else:
        eight = (numpy.arange(found.white + 1) * (255 / found.white)).round().astype(numpy.uint8)[values]
    return Image.fromarray(255 - eight if found.inverted else eight), note


def _without_needless_alpha(image: Image.Image) -> Image.Image:
    """The image without its alpha channel, if that is 255 everywhere."""
    needless = has_alpha(image) and image.getchannel("A").getextrema() == (255, 255)
    return image.convert(image.mode[:-1]) if needless else image


def _in_srgb(picture: Picture, profile: bytes | None) -> Picture:
    """The picture with its colours in sRGB, of mode L, LA, RGB or RGBA."""
    image = picture.image
    mode = image.mode[:-1] if has_alpha(image) else image.mode
    try:
        transform = _to_srgb(profile, mode) if profile else None
    except (ImageCms.PyCMSError, OSError, ImportError):  # an import error if Pillow was built without Little CMS
        picture, transform = picture.then(image, "ICC profile not used because it is damaged or does not fit"), None
    if transform is None:
        return picture.then(image.convert("RGB"), "CMYK converted to RGB") if mode == "CMYK" else picture
    shown = _applied(transform, image.convert(mode)).convert("L" if mode == "L" else "RGB")
    if has_alpha(image):
        shown.putalpha(image.getchannel("A"))
    return picture.then(shown, "colours converted from their ICC profile to sRGB")


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What converts pixels of a mode and a profile to sRGB; None if that changes next to nothing.

    Whether it does is tried on 17 values of each channel. Raises `ImageCms.PyCMSError` or `OSError`.
    """
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return transform
    axes = numpy.meshgrid(*[numpy.arange(0, 256, 15, dtype=numpy.uint8)] * len(mode))
    probe = Image.merge(mode, [Image.fromarray(axis.reshape(1, -1)) for axis in axes])
    moved = numpy.asarray(ImageChops.difference(probe.convert("RGB"), _applied(transform, probe)))
    return transform if moved.max() > _NEAR else None


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    shown = ImageCms.applyTransform(image, transform)
    assert shown is not None  # it is None only where the image itself is changed
    return shown
