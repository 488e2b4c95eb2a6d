"""Pictures of several clouds: sheets, strips of views, and sheets that turn."""

import base64
import io
from collections.abc import Sequence
from math import tau
from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFont

from diffcore_pointcloud.output.painting import AZIMUTH, painted
from diffcore_pointcloud.output.points import Points

LINE = 16
"""Pixels of a line of words below a tile."""


def sheet(
    shown: Sequence[Points], columns: int, words: Sequence[str] = (), size: int = 256, azimuth: float = AZIMUTH
) -> Image.Image:
    """Clouds in rows of `columns`, each with its words below; where no cloud has words, there is no room for them."""
    columns = max(1, min(columns, len(shown)))
    rows, line = max(1, -(-len(shown) // columns)), LINE if any(words) else 0
    canvas = Image.new("RGB", (columns * size, rows * (size + line)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(LINE - 4)
    for k, points in enumerate(shown):
        left, top = k % columns * size, k // columns * (size + line)
        canvas.paste(Image.fromarray(painted(points, size, azimuth)), (left, top))
        if line:
            pen.text((left + size / 2, top + size + line / 2), _cut(words[k], size, font), "#444", font, anchor="mm")
    return canvas


def _cut(words: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Words that fit into a tile."""
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(f"{words}…") > width:
        words = words[:-1]
    return f"{words}…"


def write_turning(
    shown: Sequence[Points], path: Path, columns: int, words: Sequence[str] = (), size: int = 128, frames: int = 24
) -> None:
    """An animated GIF of the sheet that goes round once in 3 seconds and for ever.

    In frame k of n the clouds have been turned by 2 pi k / n about y, from the view of the sheet on.
    """
    turned = [sheet(shown, columns, words, size, AZIMUTH + tau * k / frames) for k in range(frames)]
    first = limited(turned[0], 256)
    rest = [picture.quantize(palette=first, dither=Image.Dither.NONE) for picture in turned[1:]]
    first.save(path, save_all=True, append_images=rest, duration=3000 // frames, loop=0, optimize=False)


def strip(points: Points, views: int = 6, size: int = 80) -> Image.Image:
    """A cloud from `views` directions all around, from left to right."""
    parts = [painted(points, size, AZIMUTH + tau * k / views) for k in range(views)]
    return Image.fromarray(numpy.concatenate(parts, 1))


def limited(picture: Image.Image, number: int) -> Image.Image:
    """A picture with a palette of so many colours, of which white is one."""
    found = picture.quantize(number - 1, Image.Quantize.MEDIANCUT)
    found.putpalette([*(found.getpalette() or [])[: 3 * (number - 1)], 255, 255, 255])
    return picture.quantize(palette=found, dither=Image.Dither.NONE)


def embedded(picture: Image.Image) -> str:
    """A picture as the address of an image that is in the page; of 64 colours, to be small."""
    buffer = io.BytesIO()
    limited(picture, 64).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
